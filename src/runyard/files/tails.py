"""The end of a log, read without the rest of it. Standard library."""

import os

#: How many lines an error shows, and bytes at most.
TAIL_LINES, TAIL_BYTES = 20, 16_384


def tail_of(path: str, lines: int = TAIL_LINES, most_bytes: int = TAIL_BYTES) -> str:
    """The last lines of a log, as an error shows them; '' where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            return "\n".join(file.read().decode("utf-8", "replace").replace("\0", "").splitlines()[-lines:])
    except OSError:
        return ""
