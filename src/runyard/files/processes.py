"""Which process is which on this host: identity that outlives pid reuse and reboots. Standard library, Linux."""

import os
from typing import Any, Dict, Iterator, Optional


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
