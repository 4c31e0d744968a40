"""Keeps runners for a local server: a single-threaded child that has imported the runner already and keeps no state.

It is spoken to over an inherited socket pair, a JSON message an attempt, and ends when the server's end is closed. One
runner is forked ahead and waits for its attempt, so that no attempt waits for a fork. One that has finished an attempt
takes the next: a fork, and copying the pages that a new process changes, costs as much as all that a runner does.
"""

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any, Dict, List, Optional, Set, Tuple

from runyard.environments.confinement import deaf_words, why_not
from runyard.protocol.blobs import Offset
from runyard.protocol.metrics import MetricsReply
from runyard.protocol.plan import Launch, ReportReply
from runyard.protocol.runs import Count
from runyard.protocol.wire import prepare
from runyard.runner.__main__ import main as run_attempt
from runyard.runner.folder import claim
from runyard.runner.processes import adopt_orphans, has_children

MESSAGE_BYTES = 65_536
#: What a runner answers once its identity is on disk, and says when nothing of its attempt is left.
CLAIMED, IDLE = b"claimed", b"idle"
#: Limits that a script may lower for its runner.
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CORE)
#: Most attempts of one process, should one leave something behind all the same.
ATTEMPTS_MAX = 100
#: Most runners that wait, and how long those that have worked already do, seconds.
IDLE_MAX, IDLE_S = 4, 10.0


def main(descriptor: int) -> None:
    """Serve forks until the server is gone."""
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    # Each runner would ask anew. Before ends are ignored, or none would be known here.
    why_not() or deaf_words()
    # Ended runners are reaped by the kernel: one fork does, and the nursery keeps no list of children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What a killed runner leaves behind comes to us, also a daemon that cleared its environment.
    adopt_orphans()
    _prepare()
    pool = _Pool(connection)
    connection.settimeout(IDLE_S)
    while True:
        try:
            message = connection.recv(MESSAGE_BYTES)
        except TimeoutError:
            pool.rest()
            continue
        except OSError:
            return
        if not message:
            return
        connection.send(json.dumps(pool.start(message)).encode())
        pool.tend()


def _prepare() -> None:
    """Do now what each runner would do for itself at its first request."""
    "localhost".encode("idna")
    for name in ("container", "inputs", "mpi", "node_tools"):
        importlib.import_module(f"runyard.runner.{name}")
    prepare(Launch, ReportReply, Count, Offset, MetricsReply)
    gc.collect()
    gc.freeze()


class _Pool:
    """The runners of this nursery."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        #: Those forked ahead first, so that one that has worked already is preferred.
        self._idle: List[_Runner] = []
        self._busy: List[_Runner] = []
        self._pids: Set[int] = set()
        self.tend()

    def start(self, message: bytes) -> Dict[str, Any]:
        """Let a runner carry out that request; returns once its identity is on disk."""
        self._look()
        while True:
            is_new = not self._idle
            runner = self._fork() if is_new else self._idle.pop()
            answer = runner.take(message)
            if answer is not None:
                self._busy.append(runner)
                return answer
            # Somebody killed it while it waited.
            runner.dismiss()
            if is_new:
                return {"ok": False, "errno": 0, "error": "it died"}

    def tend(self) -> None:
        """Fork one ahead, and end the children that are no runner of ours: each was left by one that was killed."""
        if not self._idle:
            self._idle.append(self._fork())
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = {int(pid) for pid in file.read().split()}
        self._pids &= children
        for pid in children - self._pids:
            os.kill(pid, signal.SIGKILL)

    def rest(self) -> None:
        """Nothing was asked for a while: give back the memory of those that have worked."""
        self._look()
        for runner in self._idle:
            if runner.has_worked:
                runner.dismiss()
        self._idle = [runner for runner in self._idle if not runner.has_worked]
        self.tend()

    def _look(self) -> None:
        """Who has finished, or is gone?"""
        poller = select.poll()
        for runner in self._busy:
            poller.register(runner.line, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(0)}
        for runner in [one for one in self._busy if one.line.fileno() in ready]:
            self._busy.remove(runner)
            if runner.is_idle() and len(self._idle) < IDLE_MAX:
                self._idle.append(runner)
            else:
                runner.dismiss()

    def _fork(self) -> "_Runner":
        runner = _Runner([self._connection, *(one.line for one in self._idle + self._busy)])
        self._pids.add(runner.pid)
        return runner


class _Runner:
    """A forked process that is told which attempt to carry out, again and again; it ends if the nursery does."""

    def __init__(self, others: List[socket.socket]) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.has_worked = False
        self.pid = os.fork()
        if self.pid == 0:
            try:
                # An end that stayed open here would keep the others from hearing that the nursery is gone.
                for one in (self.line, *others):
                    one.close()
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def take(self, message: bytes) -> Optional[Dict[str, Any]]:
        """Let it carry out that request; its answer once its identity is on disk, None where it is gone."""
        self.has_worked = True
        try:
            self.line.send(message)
            answer = self.line.recv(MESSAGE_BYTES)
        except OSError:
            return None
        if not answer:
            return None
        if answer == CLAIMED:
            return {"ok": True}
        number, _, text = answer.decode("utf-8", "replace").partition(" ")
        return {"ok": False, "errno": int(number), "error": text}

    def is_idle(self) -> bool:
        """Has it said that nothing of its attempt is left? Once it said something, or is gone."""
        try:
            return self.line.recv(MESSAGE_BYTES) == IDLE
        except OSError:
            return False

    def dismiss(self) -> None:
        """Let it end, now or after its attempt."""
        self.line.close()


def _serve(line: socket.socket) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    standing = _standing()
    for _ in range(ATTEMPTS_MAX):
        message = line.recv(MESSAGE_BYTES)
        if not message:
            return
        request = json.loads(message)
        is_recovery = bool(request.get("recover"))
        _carry_out(str(request["folder"]), is_recovery, line)
        if is_recovery or has_children() or threading.active_count() > 1:
            return
        if _standing() != standing:
            # A script did that to its parent, and the next one would inherit it.
            return
        line.send(IDLE)


def _standing() -> Tuple[Any, ...]:
    """What the kernel grants this process, which any process of its user may change."""
    file = os.open("/proc/self/oom_score_adj", os.O_RDONLY)
    score = os.read(file, 16)
    os.close(file)
    limits = tuple(resource.getrlimit(limit) for limit in LIMITS)
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), score, limits


def _carry_out(folder: str, is_recovery: bool, line: socket.socket) -> None:
    """Be the runner of one attempt; ends the process where that fails."""
    try:
        _replace_standard_files(os.path.join(folder, "runner.log"))
        lock = claim(folder)
        line.send(CLAIMED)
        run_attempt(folder, is_recovery)
        os.close(lock)
    except BaseException as error:  # noqa: BLE001 - the last thing that this process can say
        _last_words(line, error)
        os._exit(1)


def _replace_standard_files(log_path: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _last_words(line: socket.socket, error: BaseException) -> None:
    traceback.print_exc()
    sys.stderr.flush()
    try:
        line.send(f"{getattr(error, 'errno', None) or 0} {error}".encode("utf-8", "replace")[:1000])
    except OSError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
