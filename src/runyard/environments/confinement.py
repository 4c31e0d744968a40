"""How this host can keep jobs apart from their server: by bubblewrap, asked of bubblewrap itself, else by user ids."""

import os
import shutil
import subprocess
from functools import lru_cache
from typing import List

from runyard.environments.job_users import why_no_users
from runyard.errors import UserErrorException
from runyard.protocol.plan import Isolation

#: Names the Isolation of a host's jobs; not set: hidden where that works, else user, else trusted.
VARIABLE = "RUNYARD_ISOLATION"
PROGRAM = "bwrap"
_HEARING = [shutil.which("env") or "env", "--default-signal=TERM"]
#: A host that is busy gets this time to answer, seconds.
PROBE_TIMEOUT_S = 20.0


def basic_words(is_read_only: bool = False) -> List[str]:
    """bubblewrap and what every sandbox asks of the kernel; UserErrorException where it is not installed."""
    found = _program()
    if not found:
        raise UserErrorException(why_not())
    words = [found, "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL"]
    words += ["--ro-bind" if is_read_only else "--bind", "/", "/", "--dev", "/dev"]
    words += ["--proc", "/proc", "--ro-bind", "/sys", "/sys"]
    # Root without a capability may still write the kernel's settings.
    return [*words, "--ro-bind", "/proc/sys", "/proc/sys"] if os.geteuid() == 0 else words


@lru_cache(maxsize=1)
def why_not() -> str:
    """Why no process can be confined here; '' where it can. Tried once a process, in some milliseconds."""
    if not _program():
        return "bubblewrap is not installed (Debian: apt install bubblewrap)"
    words = [*basic_words(), "--tmpfs", "/dev/shm", "--", "true"]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start ({error})"
    said = done.stdout.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
    return f"bubblewrap cannot confine here ({said[-1]})" if done.returncode else ""


@lru_cache(maxsize=1)
def deaf_words() -> List[str]:
    """What goes before bubblewrap, so that a TERM to all processes spares it; ``hearing`` is for its command.

    Slurm and a machine's shutdown send one; bubblewrap would end at once and take the script along, which has its grace
    to write a checkpoint. Nothing where the host's env cannot do this (GNU coreutils before 8.31).
    """
    words = [shutil.which("env") or "", "--ignore-signal=TERM"]
    try:
        done = subprocess.run([*words, *_HEARING, "true"], stderr=subprocess.DEVNULL, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return words if done.returncode == 0 else []


def hearing(command: List[str]) -> List[str]:
    """The command of a bubblewrap behind ``deaf_words``, so that it hears TERM itself."""
    if not deaf_words():
        return command
    # env takes a program whose path has an "=" in it for a variable. A shell does not; but some lose variables whose
    # names are none to them.
    between = ["/bin/sh", "-c", 'exec "$@"', "sh"] if "=" in command[0] else []
    return [*_HEARING, *between, *command]


def isolation_here(asked: str, home: str = "/") -> str:
    """The Isolation of the jobs of a server or node with that home: the first that works, if none is asked for.

    UserErrorException where it cannot be as asked.
    """
    if asked not in ("", Isolation.TRUSTED, Isolation.USER, Isolation.HIDDEN):
        raise UserErrorException(f"{VARIABLE} is hidden, user or trusted, not {asked[:40]!r}.")
    if asked == Isolation.TRUSTED:
        return asked
    if asked != Isolation.USER and not why_not():
        return Isolation.HIDDEN
    if asked == Isolation.HIDDEN:
        raise UserErrorException(f"{VARIABLE} is hidden, and {why_not()}.")
    if not why_no_users(home):
        return Isolation.USER
    if asked == Isolation.USER:
        raise UserErrorException(f"{VARIABLE} is user, and {why_no_users(home)}.")
    return Isolation.TRUSTED


def isolation_problem(asked: str, home: str = "/") -> str:
    """One sentence where jobs are not kept apart on this host although nobody asked for that; '' elsewhere."""
    if asked or isolation_here(asked, home) != Isolation.TRUSTED:
        return ""
    return f"Jobs may do all that the server's user may: {why_not()}, and {why_no_users(home)}."


@lru_cache(maxsize=1)
def _program() -> str:
    """bubblewrap, by this process's own PATH."""
    return shutil.which(PROGRAM) or ""
