"""The script's process and everything that it starts: begun, watched, ended to the last one."""

import ctypes
import os
import select
import signal
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, List, Optional, Set, Tuple

from runyard.environments.job_users import become, prepare
from runyard.files.processes import of_user, parents, signal_group, with_variable
from runyard.protocol.plan import ExitCause

#: prctl(2): orphans below us become our children, so that none escapes.
_PR_SET_CHILD_SUBREAPER = 36
#: How long processes get to vanish after KILL, seconds.
KILL_TIMEOUT_S = 10.0
#: How long the kernel may take over a sandbox whose script has ended, seconds.
VANISH_S = 0.02
#: What a process gets for what it did itself.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
#: Exit codes above this are that of a signal, as a shell and a container's first process give them.
_SIGNALLED = 128
_SIGNALS = 64


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process (Linux)."""
    _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@lru_cache(maxsize=None)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Script:
    """A started script. Its output goes straight to the log file: no pipe, nothing to pump."""

    def __init__(
        self,
        command: List[str],
        variables: Dict[str, str],
        work: Path,
        log: Path,
        descriptors: Tuple[int, ...] = (),
        enter: Optional[Callable[[], None]] = None,
    ) -> None:
        """Start it, with these open files beside its log; OSError where the program cannot be started.

        ``enter`` is called in the new process before it becomes the script: brief, for this process has threads.
        """
        with open(str(log), "ab") as output:
            self._process = subprocess.Popen(
                command,
                env=variables,
                cwd=str(work),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
                preexec_fn=enter,
            )
        self._descriptor = os.pidfd_open(self._process.pid)
        self._poller = select.poll()
        self._poller.register(self._descriptor, select.POLLIN)

    #: Why it ended, where nobody here has ended it.
    cause = ExitCause.SCRIPT

    @property
    def pid(self) -> int:
        """Its process, which leads a session of its own."""
        return self._process.pid

    def fileno(self) -> int:
        """Can be read once it has ended."""
        return self._descriptor

    def wait(self, timeout_s: float) -> Optional[int]:
        """Its exit code (minus the signal's number if one killed it) as soon as it ends, or None after the time."""
        try:
            self._poller.poll(max(0, timeout_s * 1000))
        except InterruptedError:
            pass
        return self._process.poll()

    def close(self) -> None:
        """Forget it; whatever is left of it lives on."""
        os.close(self._descriptor)

    def terminate(self) -> None:
        """Ask its whole session to end."""
        signal_group(self._process.pid, signal.SIGTERM)


def exit_code(code: Optional[int]) -> Optional[int]:
    """A container's exit code as a process's: minus the number of the signal that killed it."""
    if code is None or not _SIGNALLED < code <= _SIGNALLED + _SIGNALS:
        return code
    return _SIGNALLED - code


def describe_signal(number: int) -> str:
    """The name of a signal that ended a process, and whence such a one comes."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    whence = (
        "a crash in compiled code, its own or a library's" if name in _CRASHES else "out of memory, or by someone else"
    )
    return f"{name} ({whence})"


def end_all(key: str, grace_s: float, user: Optional[int] = None) -> int:
    """End whatever is left of an attempt: TERM, ``grace_s`` seconds, KILL; returns how many processes there were.

    Finds children and adopted orphans of this process, (after a runner was lost) processes that carry the attempt's
    variable, and those of its ``user``, if it has one of its own. Raises TimeoutError if one survives KILL, which only
    the kernel can cause.
    """
    seen: Set[int] = set()
    kill_at = time.monotonic() + grace_s
    give_up_at = kill_at + KILL_TIMEOUT_S
    signalled = False
    while True:
        _reap()
        left = _left_over(key, user)
        if not left:
            return len(seen)
        is_late = time.monotonic() >= kill_at
        for pid in left:
            if is_late or pid not in seen or not signalled:
                signal_process(pid, signal.SIGKILL if is_late else signal.SIGTERM)
        if is_late and user is not None:
            # All at once: what forks faster than it is found has no time for that.
            kill_user(user)
        seen.update(left)
        signalled = True
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"processes {sorted(left)} do not end")
        time.sleep(0.02)


def are_gone() -> bool:
    """Have all processes below this one ended, or do they within VANISH_S?"""
    ends_at, pause_s = time.monotonic() + VANISH_S, 0.001
    while has_children():
        if time.monotonic() >= ends_at:
            return False
        time.sleep(pause_s)
        pause_s *= 2
    return True


def kill_user(user: int) -> None:
    """Kill every process of that user id, by one of them."""
    prepare()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        become(user)
        # As root this would be the end of the host.
        if user > 0 and os.getresuid() == (user, user, user):
            os.kill(-1, signal.SIGKILL)
    finally:
        os._exit(0)


def _left_over(key: str, user: Optional[int]) -> Set[int]:
    me = os.getpid()
    found = descendants(me) | set(with_variable("RUNYARD_KEY", key))
    return (found if user is None else found.union(of_user(user))) - {me}


def has_children() -> bool:
    """Is any process below this one left, after reaping those that ended?"""
    return _reap()


def _reap() -> bool:
    """Collect children that ended; False once there are none at all."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def descendants(root: int) -> Set[int]:
    """Every process below that one."""
    known = parents()
    found = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in known.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {root}


def signal_process(pid: int, number: int) -> None:
    """Signal a process, unless it is gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
