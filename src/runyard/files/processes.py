"""Which process is which on this host: identity that outlives pid reuse and reboots. Standard library, Linux."""

import os
from typing import Any, Dict, Iterator, List, Optional, Tuple


def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_time(pid: int) -> Optional[int]:
    """When the process started, in clock ticks since boot; None if there is none, or only a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def identity(pid: int) -> Dict[str, Any]:
    """What tells this process from any other, ever."""
    return {"pid": pid, "start_time": start_time(pid), "boot_id": boot_id()}


def is_alive(record: Dict[str, Any]) -> bool:
    """Is the very process that ``identity`` described still running?"""
    pid, started = record.get("pid"), record.get("start_time")
    if not isinstance(pid, int) or started is None or record.get("boot_id") != boot_id():
        return False
    return bool(start_time(pid) == started)


def with_variable(name: str, value: str) -> Iterator[int]:
    """Pids of processes that were started with that environment variable, as far as we may look."""
    wanted = f"{name}={value}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    yield int(entry)
        except OSError:
            continue


def of_user(user: int) -> Iterator[int]:
    """Pids of processes that run under that user id, zombies left out."""
    wanted = str(user).encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/status", "rb") as file:
                text = file.read()
        except OSError:
            continue
        state, ids = (text.partition(name)[2].partition(b"\n")[0].split() for name in (b"\nState:", b"\nUid:"))
        if wanted in ids and not state[0].startswith(b"Z"):
            yield int(entry)


def parents() -> Dict[int, int]:
    """Every process of this host, zombies left out, and its parent."""
    found: Dict[int, int] = {}
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields is not None and fields[0] != "Z":
            found[int(entry)] = int(fields[1])
    return found


class ProcessTable:
    """All processes of this host at one moment: one short read each."""

    def __init__(self) -> None:
        #: Parent, ticks of the CPU with those of ended children, pages of memory.
        self._known: Dict[int, Tuple[int, int, int]] = {}
        self._children: Dict[int, List[int]] = {}
        for entry in os.listdir("/proc"):
            fields = _stat(int(entry)) if entry.isdigit() else None
            if fields is not None:
                self._known[int(entry)] = int(fields[1]), sum(map(int, fields[11:15])), int(fields[21])
                self._children.setdefault(int(fields[1]), []).append(int(entry))

    def usage(self, root: int) -> Tuple[float, int]:
        """What that process and those below it have taken of the CPU, seconds, and take of the memory now, bytes.

        The time of those that have ended counts, as their parents have collected it; the difference of two calls is
        what was taken between them. Memory that several share counts for each.
        """
        ticks, pages, waiting = 0, 0, [root] if root in self._known else []
        while waiting:
            pid = waiting.pop()
            ticks, pages = ticks + self._known[pid][1], pages + self._known[pid][2]
            waiting += self._children.get(pid, ())
        return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")

    def usage_below(self, root: int) -> Tuple[float, int]:
        """As ``usage``, without what that process itself has taken and takes."""
        cpu_s, memory_bytes = 0.0, 0
        for child in self._children.get(root, ()):
            of_child = self.usage(child)
            cpu_s, memory_bytes = cpu_s + of_child[0], memory_bytes + of_child[1]
        own = _stat(root)
        ended = 0 if own is None else int(own[13]) + int(own[14])
        return cpu_s + ended / os.sysconf("SC_CLK_TCK"), memory_bytes


def signal_group(group: int, number: int) -> None:
    """Signal a process group, unless nothing is left of it or it is not ours."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def process_name(pid: int) -> str:
    """What program it is, as the kernel has it (15 characters at the most); '' for none."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def _stat(pid: int) -> Any:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
