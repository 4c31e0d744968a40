"""What a job may take of its node: a control group of the kernel's, version 2 or 1, where this user may make one."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from runyard.runner.folder import host_name_of

#: Where processes find their groups, and what is mounted.
PROC = Path("/proc/self")
#: By version: the file of a group that takes a limit, by what it limits.
_MEMORY, _PROCESSES = {2: "memory.max", 1: "memory.limit_in_bytes"}, "pids.max"
#: Set with the memory, or else what is too much goes to the disk and takes ages: by version, the file and its value.
_SWAP = {2: ("memory.swap.max", "0"), 1: ("memory.memsw.limit_in_bytes", "{}")}
#: The file that counts the processes which the kernel has ended for their memory.
_COUNTS = {2: "memory.events", 1: "memory.oom_control"}


class Group:
    """The control group of one attempt on this node."""

    def __init__(self, version: int, folders: Dict[str, Path]) -> None:
        """``folders``: by "memory" and "pids", the group's folder; one and the same in version 2."""
        self._version = version
        self._folders = folders

    def enter(self) -> None:
        """Bring the process that calls, and what it will start, into the group."""
        for folder in set(self._folders.values()):
            with open(str(folder / "cgroup.procs"), "w") as file:
                file.write("0")

    def is_out_of_memory(self) -> bool:
        """Has the kernel ended any of its processes, since all together took more than they may?"""
        with suppress(OSError, KeyError):
            for line in (self._folders["memory"] / _COUNTS[self._version]).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False


#: More processes at once than any job needs, and fewer than a host can carry.
PROCESSES_MAX = 16_384


def make_group(
    key: str, memory_bytes: Optional[int], processes_max: Optional[int], proc: Path = PROC
) -> Optional[Group]:
    """A group with those limits for the attempt of that key; None where this user may make none that has them."""
    limits = {"memory": memory_bytes, "pids": processes_max}
    wanted = [name for name, limit in limits.items() if limit is not None]
    for version in (2, 1) if wanted else ():
        folders: Dict[str, Path] = {}
        for controller in wanted:
            same = folders.get("memory") if version == 2 else None
            made = same or _make(version, controller, wanted, host_name_of(key), proc)
            if made is not None:
                folders[controller] = made
        if len(folders) == len(wanted) and _limit(version, folders, limits):
            return Group(version, folders)
        remove_group(key, proc)
    return None


def remove_group(key: str, proc: Path = PROC) -> None:
    """Take the group of that key away, whoever has made it; its processes have ended."""
    for version, controller in ((2, "memory"), (1, "memory"), (1, "pids")):
        for parent in _parents(version, controller, proc):
            with suppress(OSError):
                (parent / host_name_of(key)).rmdir()


def why_not(proc: Path = PROC) -> str:
    """Why no job can be limited here; '' where one can. Tried with a group that is taken away at once."""
    key = f"try {os.getpid()}"
    if make_group(key, 1 << 40, None, proc) is None:
        return "this user may make no control group that limits memory"
    remove_group(key, proc)
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
    files = {"memory": _MEMORY[2], "pids": _PROCESSES}
    return all((folder / files[one]).exists() for one in wanted)


def _limit(version: int, folders: Dict[str, Path], limits: Dict[str, Optional[int]]) -> bool:
    try:
        if "memory" in folders:
            (folders["memory"] / _MEMORY[version]).write_text(str(limits["memory"]))
            file, value = _SWAP[version]
            if (folders["memory"] / file).exists():
                (folders["memory"] / file).write_text(value.format(limits["memory"]))
        if "pids" in folders:
            (folders["pids"] / _PROCESSES).write_text(str(limits["pids"]))
    except OSError:
        return False
    return True


def _parents(version: int, controller: str, proc: Path) -> List[Path]:
    """This process's own group in that hierarchy, and those above it as far as it sees them, the nearest first."""
    own, mounted = _own_path(version, controller, proc), _mounted(version, controller, proc)
    if own is None or mounted is None:
        return []
    root, top = mounted
    below = os.path.relpath(own, root)
    if below.startswith(os.pardir):
        return [top]
    found = top / below
    return [one for one in (found, *found.parents) if one == top or top in one.parents]


def _own_path(version: int, controller: str, proc: Path) -> Optional[str]:
    with suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (controllers == "") if version == 2 else (controller in controllers.split(",")):
                return path
    return None


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
