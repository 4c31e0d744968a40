"""Files of a script that still runs: opened from folder to folder, so that nothing it does leads elsewhere."""

import os
import stat
from typing import Iterator, List, Tuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A pipe would be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def opened_files(root: str, *tops: str) -> Iterator[Tuple[str, int]]:
    """(path below ``root``, descriptor) of each regular file below its folders ``tops``, in order.

    A descriptor is closed when the next one is asked for. Links are left out, and so is what cannot be opened or goes
    away meanwhile.
    """
    folder = os.open(root, _FOLDER)
    try:
        for top in tops:
            yield from _opened(folder, top, top)
    finally:
        os.close(folder)


def _opened(parent: int, name: str, path: str) -> Iterator[Tuple[str, int]]:
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        return
    try:
        for entry in sorted(_names(folder)):
            yield from _entry(folder, entry, f"{path}/{entry}")
    finally:
        os.close(folder)


def _entry(folder: int, name: str, path: str) -> Iterator[Tuple[str, int]]:
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            yield path, handle
    finally:
        os.close(handle)
    if stat.S_ISDIR(mode):
        yield from _opened(folder, name, path)


def _names(folder: int) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
