"""User ids that belong to nobody, one for each attempt of a root's server: which, whether they work, becoming one.

The permissions of the disk and the kernel's rules about processes do the rest.
"""

import ctypes
import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from functools import lru_cache, partial
from typing import List, Sequence, Tuple

from runyard.errors import UserErrorException

#: Names the ids, as first-last. By default those that neither systemd nor Debian gives to anybody, and that every
#: container has.
VARIABLE, DEFAULT = "RUNYARD_USER_IDS", "60600-61099"
#: What root needs for it, by the numbers of capabilities(7).
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
#: Where the ids in use are locked: one place for all servers of a host, made anew with each start of it.
LOCKS_FOLDER = "/run/runyard-users"
#: A host that is busy gets this time to answer, seconds.
PROBE_TIMEOUT_S = 20.0
#: Of a home, and of its cache, what a job may pass through on its way to what is its own.
_OPEN = ("cache", "envs", "kits", "runs")
#: Made before any job starts, so that they are closed when something is put there first.
_OF_HOME, _OF_CACHE = ("builds", "environment-files"), ("caches", "data", "files", "node-files")
#: prctl(2): no program gives it more rights than it has; a right is out of reach for ever.
_NO_NEW_PRIVILEGES, _DROP_RIGHT = 38, 24
#: capset(2): version 3, this process; no right of any kind.
_CAPABILITY_HEADER, _NO_CAPABILITIES = (0x20080522, 0), (0,) * 6


def user_ids() -> range:
    """The ids that jobs may have; UserErrorException where the variable does not name any."""
    text = os.environ.get(VARIABLE, "").strip() or DEFAULT
    found = re.match(r"^(\d{1,9})-(\d{1,9})$", text)
    if found is None or not 0 < int(found.group(1)) <= int(found.group(2)):
        raise UserErrorException(f"{VARIABLE} is two numbers, such as {DEFAULT}, not {text[:40]!r}.")
    return range(int(found.group(1)), int(found.group(2)) + 1)


def is_somebody(user: int) -> bool:
    """Does the host know that id as a user or a group of its own?"""
    names = []
    with suppress(KeyError):
        names.append(pwd.getpwuid(user).pw_name)
    with suppress(KeyError):
        names.append(grp.getgrgid(user).gr_name)
    return any(not one.startswith("runyard") for one in names)


def become(user: int) -> None:
    """Make this process that user's, for ever: no other group, no right of root's, no way back by any program.

    Called between fork and exec; prepare() was called before.
    """
    libc = _libc()
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for number in range(64):
        if libc.prctl(_DROP_RIGHT, number, 0, 0, 0) != 0:
            break
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header, nothing = _capability_words()
    if libc.capset(header, nothing) != 0 or os.getresuid() != (user, user, user) or user == 0:
        raise OSError(f"this process could not become the user {user}")
    os.umask(0o077)


def prepare() -> None:
    """Load what become() needs, while there is one process still."""
    _libc()
    _capability_words()


@lru_cache(maxsize=8)
def why_no_users(home: str) -> str:
    """Why jobs cannot have users of their own here, below the home folder of that path; '' where they can."""
    if os.geteuid() != 0:
        return "jobs can have users of their own only where the server is root"
    missing = _missing_capabilities()
    if missing:
        return f"root may not change users here (it lacks CAP_{', CAP_'.join(missing)})"
    try:
        with open("/proc/sys/fs/protected_hardlinks") as file:
            is_protected = file.read().strip() == "1"
    except OSError:
        is_protected = False
    if not is_protected:
        return "this kernel lets users link to files of others (sysctl fs.protected_hardlinks)"
    try:
        # A lock of another's making would be no lock.
        os.makedirs(LOCKS_FOLDER, 0o700, exist_ok=True)
        found = os.stat(LOCKS_FOLDER)
        if found.st_uid != 0 or found.st_mode & 0o022:
            return f"{LOCKS_FOLDER} is not root's alone"
    except OSError as error:
        return f"{LOCKS_FOLDER} cannot be made ({error.strerror})"
    return _why_not_as(user_ids()[-1], _parent(home))


def open_home(home: str) -> None:
    """Let everybody pass through a home to what is their own, and to nothing else: its other parts are closed.

    A node of another engine has its cache for its home.
    """
    cache = os.path.join(home, "cache")
    for top, early in ((home, _OF_HOME), (cache, _OF_CACHE)) if os.path.isdir(cache) else ((home, _OF_CACHE),):
        for name in early:
            os.makedirs(os.path.join(top, name), exist_ok=True)
        with os.scandir(top) as entries:
            for entry in entries:
                is_open = (entry.name in _OPEN or entry.name.startswith("runs-")) and entry.is_dir()
                _give(entry.path, 0o711 if is_open else -1)
        _give(top, stat.S_IMODE(os.stat(top).st_mode) | 0o011)


def _give(path: str, mode: int) -> None:
    """Give it that mode; -1: nothing of it to anybody but its owner. What goes away meanwhile is left alone."""
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        wanted = stat.S_IMODE(found.st_mode) & 0o700 if mode < 0 else mode
        if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) != wanted:
            os.chmod(path, wanted)


def _parent(home: str) -> str:
    """The nearest folder above it that is there."""
    found = os.path.dirname(os.path.realpath(home))
    while not os.path.isdir(found):
        found = os.path.dirname(found)
    return found


def _why_not_as(user: int, folder: str) -> str:
    """Tried with a program that looks whether it may pass through the folder."""
    prepare()
    program = shutil.which("test", path=os.defpath) or "/usr/bin/test"
    try:
        done = subprocess.run(
            [program, "-x", folder], preexec_fn=partial(become, user), cwd="/", timeout=PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return f"a process cannot become the user {user} ({VARIABLE} names others)"
    if done.returncode:
        closed = f"the folder {folder}, above the server's home, is closed to other users"
        return f"{closed} (RUNYARD_HOME names another home, /var/lib/runyard, say)"
    return ""


def _missing_capabilities() -> List[str]:
    with open("/proc/self/status") as file:
        (line,) = [one for one in file if one.startswith("CapEff:")]
    held = int(line.split()[1], 16)
    return [name for name, number in CAPABILITIES.items() if not held >> number & 1]


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@lru_cache(maxsize=1)
def _capability_words() -> "Tuple[ctypes.Array[ctypes.c_uint32], ctypes.Array[ctypes.c_uint32]]":
    return _words(_CAPABILITY_HEADER), _words(_NO_CAPABILITIES)


def _words(numbers: Sequence[int]) -> "ctypes.Array[ctypes.c_uint32]":
    return (ctypes.c_uint32 * len(numbers))(*numbers)
