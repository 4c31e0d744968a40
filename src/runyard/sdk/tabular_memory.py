"""Tells in a sentence that a table does not fit into memory, before the machine ends the program without a word."""

import re
from typing import Any, Iterable, Iterator, Optional

from runyard.errors import UserErrorException

#: The share of the free memory that rows may take: pandas needs as much again for what it makes of text.
SHARE = 0.8


def watched(blocks: Iterable[Any], free_bytes: Optional[int] = None) -> Iterator[Any]:
    """The same blocks of rows, all of which are kept; UserErrorException once they are more than memory holds."""
    free = free_memory() if free_bytes is None else free_bytes
    kept = 0
    for rows in blocks:
        kept += sum(values.nbytes for values in rows.columns.values())
        if free is not None and kept > SHARE * free:
            raise UserErrorException(
                f"The table's rows need more memory than the {free / 2**30:.1f} GiB that are free here: ask for fewer "
                "by filter(), keep_columns() or take_sample(), or write them by to_parquet_files()."
            )
        yield rows


def free_memory() -> Optional[int]:
    """How many bytes this process may still take, by the machine and by its control group; None where nobody says."""
    found = []
    text = _text("/proc/meminfo")
    available = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    if available:
        found.append(int(available.group(1)) * 1024)
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        found.append(max(0, int(limit) - int(used)))
    return min(found) if found else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
