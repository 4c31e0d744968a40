"""What a local source of a dataset stands for: a file, all below a folder, or what a pattern matches."""

import glob
import os
from typing import List, Optional, Sequence, Tuple

from runyard.protocol.lineage import NAMES_MAX, Totals
from runyard.protocol.mounts import GLOB, DataFile, fixed_part


def list_source(path: str, base: Optional[str] = None) -> List[Tuple[str, str]]:
    """(absolute path, path below the mount) of each file, by the latter; empty where nothing is there.

    A path that exists is that file or folder, whatever brackets its name has. Links that lead nowhere, pipes and
    sockets are left out.
    ``base``: the folder that the paths below the mount are relative to; None: the source's own.
    """
    if is_pattern(path):
        base = base or fixed_part(path) or "/"
        found = glob.glob(path, recursive=True)
    elif os.path.isdir(path):
        return _below(path, base)
    else:
        base = base or os.path.dirname(path)
        found = [path]
    # A folder is read in an order that differs by machine, and the first files of a dataset must not.
    return sorted(((one, os.path.relpath(one, base)) for one in found if os.path.isfile(one)), key=lambda one: one[1])


def totals_of(files: Sequence[DataFile]) -> Totals:
    """How many there are, their bytes in all, and their paths where they are few."""
    names = tuple(one.relative for one in files) if len(files) <= NAMES_MAX else ()
    try:
        size_bytes = sum(os.stat(one.origin).st_size if one.size_bytes is None else one.size_bytes for one in files)
    except OSError:
        return Totals(len(files), None, names)
    return Totals(len(files), size_bytes, names)


def _below(folder: str, base: Optional[str]) -> List[Tuple[str, str]]:
    """As ``list_source``, for a folder: there may be a million files in it, so none is asked about twice."""
    above = "" if base is None else os.path.relpath(folder, base)
    found: List[Tuple[str, str]] = []
    waiting = [(folder, "" if above in ("", ".") else above + os.sep)]
    while waiting:
        parent, shown = waiting.pop()
        try:
            entries = list(os.scandir(parent))
        except OSError:
            continue  # not ours to read, as for os.walk
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, shown + entry.name + os.sep))
                elif entry.is_file():
                    found.append((entry.path, shown + entry.name))
            except OSError:
                continue
    return sorted(found, key=lambda one: one[1])


def is_pattern(path: str) -> bool:
    """Does the path stand for what it matches, and not for a file or folder of that very name?"""
    return GLOB.search(path) is not None and not os.path.exists(path)
