"""Files that a job may write, read by somebody else: no link is followed, no pipe waited for."""

import os
import stat

#: How many lines an error shows, and bytes at most.
TAIL_LINES, TAIL_BYTES = 20, 16_384


def tail_of(path: str, lines: int = TAIL_LINES, most_bytes: int = TAIL_BYTES) -> str:
    """The last lines of a log, as an error shows them; '' where there is none."""
    try:
        found = read_regular(path, most_bytes, from_end=True)
    except OSError:
        return ""
    return "\n".join(found.decode("utf-8", "replace").replace("\0", "").splitlines()[-lines:])


def is_regular(path: str) -> bool:
    """Is it a file, and no link or pipe that a job has put in its place?"""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def read_regular(path: str, most_bytes: int, from_end: bool = False) -> bytes:
    """A regular file's first bytes, or its last ones; OSError for a link, or a pipe that would be waited for."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no regular file")
        if from_end:
            file.seek(max(0, found.st_size - most_bytes))
        return file.read(most_bytes)
