"""A source folder as a snapshot sees it: which files go, which are left out, and what cannot be sent."""

import os
import stat
from operator import attrgetter
from typing import FrozenSet, Iterator, List, NamedTuple, Tuple, Union

from runyard.files.ignore import IgnoreRules

_LEAVES = "{!r} is a link that leaves the source folder (to {}); name it in .amlignore or copy the file."


class FoundFile(NamedTuple):
    """A file that goes; a link inside the folder is the file that it leads to."""

    path: str
    absolute: str
    stat: os.stat_result


class Ignored(NamedTuple):
    """What the rules ignore."""

    path: str
    is_folder: bool


class Problem(NamedTuple):
    """What cannot be sent and is not ignored, in a sentence."""

    text: str


def walk(root: str, rules: IgnoreRules) -> Iterator[Union[FoundFile, Ignored, Problem]]:
    """All below ``root``, which has no links in it, in no order to be relied on. Names are not judged.

    Ignored folders are never entered, nor is a folder within itself, where links make a circle.
    """
    waiting: List[Tuple[str, FrozenSet[Tuple[int, int]]]] = [("", frozenset([_identity(os.stat(root))]))]
    while waiting:
        below, above = waiting.pop()
        try:
            with os.scandir(os.path.join(root, below)) as listing:
                entries = sorted(listing, key=attrgetter("name"))
        except OSError as error:
            yield Problem(f"{below.rstrip('/') or root!r} cannot be read: {error.strerror}.")
            continue
        for entry in entries:
            path = below + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False  # a link to itself, for one; stat() says what is wrong
            if rules.is_ignored(path, is_folder):
                yield Ignored(path, is_folder)
                continue
            if entry.is_symlink() and not _stays(root, entry.path):
                yield Problem(_LEAVES.format(path, os.path.realpath(entry.path)))
                continue
            try:
                found = entry.stat()
            except OSError as error:
                yield Problem(f"{path!r} cannot be read: {error.strerror}.")
                continue
            if stat.S_ISREG(found.st_mode):
                yield FoundFile(path, entry.path, found)
            elif not is_folder:
                yield Problem(f"{path!r} is a device, pipe or socket and cannot be sent; name it in .amlignore.")
            elif _identity(found) not in above:
                waiting.append((path + "/", above | {_identity(found)}))


def _stays(root: str, link: str) -> bool:
    target = os.path.realpath(link)
    return target == root or target.startswith(root + os.sep)


def _identity(folder: os.stat_result) -> Tuple[int, int]:
    """Inodes count on each disk from the start, so the root of a mounted one may have the number of a folder above."""
    return folder.st_dev, folder.st_ino
