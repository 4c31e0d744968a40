"""Control groups of the kernel's, version 2 or 1, where this user may make one: memory, processors, processes."""

import os
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

#: Where processes find their groups, and what is mounted.
PROC = Path("/proc/self")
#: By version: the file of a group that takes a limit, by what it limits.
_MEMORY, _PROCESSES = {2: "memory.max", 1: "memory.limit_in_bytes"}, "pids.max"
#: Set with the memory, or else what is too much goes to the disk and takes ages: by version, the file and its value.
_SWAP = {2: ("memory.swap.max", "0"), 1: ("memory.memsw.limit_in_bytes", "{}")}
#: By version: how much is left to a group where others want it too, of memory and of the processors' time.
_MEMORY_KEPT = {2: "memory.low", 1: "memory.soft_limit_in_bytes"}
_WEIGHT = {2: "cpu.weight", 1: "cpu.shares"}
#: By version: the weight of one core, which is that of a group that asks for none; the least and the most.
_WEIGHTS = {2: (100, 1, 10_000), 1: (1_024, 2, 262_144)}
#: By version: the file of the most of the processors' time in each period, and what it says; microseconds.
_PERIOD_US, _QUOTA_LEAST_US = 100_000, 1_000
_QUOTA = {2: ("cpu.max", "{} " + str(_PERIOD_US)), 1: ("cpu.cfs_quota_us", "{}")}
#: The file that counts the processes which the kernel has ended for their memory.
_COUNTS = {2: "memory.events", 1: "memory.oom_control"}
#: By version: the file by which a process of one thread enters a group. In version 1 a thread that moves itself waits
#: for nobody; over whatever else is moved the kernel takes some 15 ms, while nothing on the host starts or ends.
_ENTRY = {2: "cgroup.procs", 1: "tasks"}

#: More processes and threads at once than any job needs, and fewer than a host can carry ...
PROCESSES_MAX = 16_384
#: ... which is this part of what its kernel has numbers for, where that is less.
_PART, _NUMBERS = 4, Path("/proc/sys/kernel/pid_max")
#: How often what a process started before it was in its group is looked for.
_LOOKS_MAX = 20
#: Between two tries to take a group away, seconds.
_LOOK_S = 0.01


def processes_max(asked: Optional[int]) -> Optional[int]:
    """How many processes and threads a job may have on this node; ``asked``: None: as many as is wise, 0: no limit."""
    if asked is not None:
        return asked or None
    try:
        return min(PROCESSES_MAX, int(_NUMBERS.read_text()) // _PART)
    except (OSError, ValueError):
        return PROCESSES_MAX


class Shares(NamedTuple):
    """What a group has where others want it too, and how much of the processors it may have at most; None: no word."""

    cores: Optional[float] = None
    cores_max: Optional[float] = None
    memory_bytes: Optional[int] = None


#: Of whom nothing is said.
NO_SHARES = Shares()


class Group:
    """One control group."""

    def __init__(self, version: int, folders: Dict[str, Path], proc: Path = PROC) -> None:
        """``folders``: by "memory", "pids" and "cpu", the group's folder; one and the same in version 2."""
        self._version = version
        self._folders = folders
        self._proc = proc

    def enter(self) -> None:
        """Bring the process that calls, which has one thread, and what it will start, into the group."""
        for folder in set(self._folders.values()):
            _enter(folder / _ENTRY[self._version])

    @contextmanager
    def around(self) -> Iterator[bool]:
        """What the calling thread starts meanwhile begins in the group: its thread is there itself for that long.

        False where that cannot be, as in version 2, so that what was started is to be taken there.
        """
        homes = [_own_folder(self._version, one, self._proc) for one in self._folders] if self._version == 1 else []
        back = [one / "tasks" for one in homes if one is not None]
        if not back or len(back) < len(self._folders) or not all(os.access(str(one), os.W_OK) for one in back):
            yield False
            return
        is_inside = False
        try:
            with suppress(OSError):
                self.enter()
                is_inside = True
            yield is_inside
        finally:
            for one in back:
                _enter(one)

    def take(self, root: int, below: Callable[[int], Set[int]]) -> None:
        """Bring that process of another's into the group, with what it has started; one may have ended meanwhile."""
        taken: Set[int] = set()
        for _ in range(_LOOKS_MAX):
            left = ({root} | below(root)) - taken - self._inside()
            if not left:
                return
            for folder in set(self._folders.values()):
                for pid in left:
                    with suppress(OSError):
                        (folder / "cgroup.procs").write_text(str(pid))
            taken |= left

    def is_out_of_memory(self) -> bool:
        """Has the kernel ended any of its processes, since all together took more than they may?"""
        return self._count("memory", _COUNTS[self._version], "oom_kill") > 0

    def is_out_of_processes(self) -> bool:
        """Has the kernel refused it another process or thread?"""
        return self._count("pids", "pids.events", "max") > 0

    def remove(self, wait_s: float = 0.0) -> bool:
        """Take it away, as ``remove_group``."""
        return _remove(list(set(self._folders.values())), wait_s)

    def _inside(self) -> Set[int]:
        with suppress(OSError):
            return {int(pid) for one in self._folders.values() for pid in (one / "cgroup.procs").read_text().split()}
        return set()

    def _count(self, controller: str, file: str, wanted: str) -> int:
        with suppress(OSError, KeyError):
            for line in (self._folders[controller] / file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == wanted:
                    return int(count)
        return 0


def make_group(
    name: str,
    memory_bytes: Optional[int],
    processes_max: Optional[int],
    proc: Path = PROC,
    shares: Shares = NO_SHARES,
) -> Optional[Group]:
    """A group with those limits of that name; None where this user may make none that has them.

    The memory that is to be left to it, alone, makes no group: it goes with a limit.
    """
    limits = {"memory": memory_bytes, "pids": processes_max, "cpu": shares.cores_max or shares.cores}
    wanted = [what for what, limit in limits.items() if limit is not None]
    for version in (2, 1) if wanted else ():
        folders: Dict[str, Path] = {}
        for controller in wanted:
            same = next(iter(folders.values()), None) if version == 2 else None
            made = same or _make(version, controller, wanted, name, proc)
            if made is not None:
                folders[controller] = made
        if len(folders) == len(wanted) and _limit(version, folders, memory_bytes, processes_max, shares):
            return Group(version, folders, proc)
        _remove(list(folders.values()))
    return None


def remove_group(name: str, proc: Path = PROC, wait_s: float = 0.0) -> bool:
    """Take the group of that name away, whoever has made it; False where it stays, since a process of it lives.

    The kernel takes a moment over processes that were killed: ``wait_s`` is how long to try again.
    """
    kinds = ((2, "memory"), (1, "memory"), (1, "pids"), (1, "cpu"))
    return _remove([one / name for version, what in kinds for one in _parents(version, what, proc)], wait_s)


def _remove(left: List[Path], wait_s: float = 0.0) -> bool:
    gives_up_at = time.monotonic() + wait_s
    while True:
        for folder in left:
            with suppress(OSError):
                folder.rmdir()
        left = [folder for folder in left if folder.exists()]
        if not left or time.monotonic() >= gives_up_at:
            return not left
        time.sleep(_LOOK_S)


def why_not(proc: Path = PROC) -> str:
    """Why no job can be limited here; '' where one can. Tried with a group that is taken away at once."""
    name = f"runyard-try-{os.getpid()}"
    if make_group(name, 1 << 40, None, proc) is None:
        return "this user may make no control group that limits memory"
    remove_group(name, proc)
    return ""


def _make(version: int, controller: str, wanted: List[str], name: str, proc: Path) -> Optional[Path]:
    """The new group's folder, as near to this process's own group as one can be made that has those controllers."""
    for parent in _parents(version, controller, proc):
        folder = parent / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            continue
        if version == 2 and not _has(folder, wanted):
            # Groups below a group with processes of its own have none.
            with suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in wanted))
        if version == 1 or _has(folder, wanted):
            return folder
        folder.rmdir()
    return None


def _has(folder: Path, wanted: List[str]) -> bool:
    files = {"memory": _MEMORY[2], "pids": _PROCESSES, "cpu": _WEIGHT[2]}
    return all((folder / files[one]).exists() for one in wanted)


def _limit(
    version: int,
    folders: Dict[str, Path],
    memory_bytes: Optional[int],
    processes_max: Optional[int],
    shares: Shares,
) -> bool:
    try:
        if memory_bytes is not None:
            (folders["memory"] / _MEMORY[version]).write_text(str(memory_bytes))
            file, value = _SWAP[version]
            if (folders["memory"] / file).exists():
                (folders["memory"] / file).write_text(value.format(memory_bytes))
            if shares.memory_bytes is not None:
                (folders["memory"] / _MEMORY_KEPT[version]).write_text(str(shares.memory_bytes))
        if processes_max is not None:
            (folders["pids"] / _PROCESSES).write_text(str(processes_max))
        if shares.cores is not None:
            one, least, most = _WEIGHTS[version]
            (folders["cpu"] / _WEIGHT[version]).write_text(str(min(most, max(least, round(shares.cores * one)))))
        if shares.cores_max is not None:
            file, value = _QUOTA[version]
            quota_us = max(_QUOTA_LEAST_US, round(shares.cores_max * _PERIOD_US))
            (folders["cpu"] / file).write_text(value.format(quota_us))
    except OSError:
        return False
    return True


def _enter(file: Path) -> None:
    with open(str(file), "w") as opened:
        opened.write("0")


def _parents(version: int, controller: str, proc: Path) -> List[Path]:
    """This process's own group in that hierarchy, and those above it as far as it sees them, the nearest first."""
    mounted = _mounted(version, controller, proc)
    if mounted is None:
        return []
    own, top = _own_folder(version, controller, proc), mounted[1]
    return [top] if own is None else [one for one in (own, *own.parents) if one == top or top in one.parents]


def _own_folder(version: int, controller: str, proc: Path) -> Optional[Path]:
    """This process's own group in that hierarchy; None where it does not see it."""
    own, mounted = _own_path(version, controller, proc), _mounted(version, controller, proc)
    if own is None or mounted is None:
        return None
    below = os.path.relpath(own, mounted[0])
    return None if below.startswith(os.pardir) else mounted[1] / below


def _own_path(version: int, controller: str, proc: Path) -> Optional[str]:
    with suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (controllers == "") if version == 2 else (controller in controllers.split(",")):
                return path
    return None


@lru_cache(maxsize=None)
def _mounted(version: int, controller: str, proc: Path) -> Optional[Tuple[str, Path]]:
    """Which of that hierarchy's groups is mounted, and where."""
    with suppress(OSError):
        for line in (proc / "mountinfo").read_text().splitlines():
            fields, _, kinds = line.partition(" - ")
            kind, _, options = kinds.split(" ", 2)
            is_it = kind == "cgroup2" if version == 2 else kind == "cgroup" and controller in options.split(",")
            if is_it:
                return fields.split(" ")[3], Path(fields.split(" ")[4])
    return None
