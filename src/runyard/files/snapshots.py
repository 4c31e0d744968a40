"""Snapshots: a source folder as a tree of contents. Unchanged files are known by a cache and not read again."""

import hashlib
import json
import os
import time
from dataclasses import field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from runyard.errors import SnapshotException
from runyard.files.blobs import BlobStore
from runyard.files.hashing import hash_file
from runyard.files.ignore import read_rules
from runyard.files.inside import join_inside
from runyard.files.layout import write_atomically
from runyard.files.walk import FoundFile, Problem, walk
from runyard.protocol.record import record
from runyard.protocol.trees import Tree, TreeEntry, check_distinct, check_path, encode_tree, tree_digest

#: A file that changed so short a time before it was hashed may change again without a new time stamp, nanoseconds.
RACY_NS = 2 * 10**9
#: How many of the largest files a refusal names.
SHOWN = 10

_CACHE_FORMAT = 2


@record
class SnapshotLimits:
    """How much a snapshot may hold; generous, and there to stop a data set that was meant to be a dataset."""

    max_bytes: int = 2 << 30
    max_files: int = 100_000


@record
class Snapshot:
    """A folder as it was seen."""

    tree: Tree
    digest: str
    size_bytes: int
    #: Where each content lies: digest -> absolute path.
    sources: Dict[str, str] = field(repr=False)
    ignored: int = 0


def configured_limits() -> SnapshotLimits:
    """The limits, as RUNYARD_SNAPSHOT_MAX_BYTES and RUNYARD_SNAPSHOT_MAX_FILES say; SnapshotException for no number."""
    known = SnapshotLimits()
    return SnapshotLimits(_setting("BYTES", known.max_bytes), _setting("FILES", known.max_files))


def _setting(name: str, default: int) -> int:
    text = os.environ.get("RUNYARD_SNAPSHOT_MAX_" + name, "")
    if text and not text.isdigit():
        raise SnapshotException(f"RUNYARD_SNAPSHOT_MAX_{name} is a whole number, not {text[:40]!r}.")
    return int(text) if text else default


def take_snapshot(folder: str, cache_folder: str, limits: Optional[SnapshotLimits] = None) -> Snapshot:
    """The folder's tree, with every ignored folder unread.

    SnapshotException names what cannot be sent: a link out of the folder, a device, too many or too large files.
    """
    root = os.path.realpath(folder)
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise SnapshotException(f"The source folder {folder!r} {what}.")
    found: List[FoundFile] = []
    ignored = 0
    for one in walk(root, read_rules(Path(root))):
        if isinstance(one, FoundFile):
            found.append(one)
        elif isinstance(one, Problem):
            raise SnapshotException(one.text)
        else:
            ignored += 1
    _check_limits(found, limits or configured_limits())
    cache = _Cache(cache_folder, root)
    entries = [_entry(one, cache) for one in found]
    tree = Tree(tuple(sorted(entries, key=lambda entry: entry.path)))
    digest = cache.find_tree()
    if digest is None:
        check_distinct(tree)
        digest = tree_digest(tree)
        cache.save(digest, len(entries))
    sources = {entry.digest: one.absolute for entry, one in zip(entries, found)}
    size = sum(entry.size_bytes for entry in entries)
    return Snapshot(tree, digest, size, sources, ignored)


def restore_tree(store: BlobStore, tree: Tree, folder: str) -> None:
    """Write the tree's files into ``folder``; every path is checked again."""
    made = set()
    for entry in tree.entries:
        check_path(entry.path)
        parent, _, name = entry.path.rpartition("/")
        place = join_inside(Path(folder), parent) if parent else Path(os.path.realpath(folder))
        if parent not in made:
            place.mkdir(parents=True, exist_ok=True)
            made.add(parent)
        store.copy_to(entry.digest, place / name, entry.executable)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The content whose digest is the snapshot's."""
    return encode_tree(snapshot.tree)


def _check_limits(found: List[FoundFile], limits: SnapshotLimits) -> None:
    size = sum(one.stat.st_size for one in found)
    if len(found) <= limits.max_files and size <= limits.max_bytes:
        return
    largest = sorted(found, key=lambda one: -one.stat.st_size)[:SHOWN]
    raise SnapshotException(
        "The source folder has {:,} files and {:,} bytes; the limits are {:,} and {:,}. "
        "Name data in .amlignore and read them as a dataset, or raise RUNYARD_SNAPSHOT_MAX_BYTES or _FILES. "
        "The largest: {}.".format(
            len(found),
            size,
            limits.max_files,
            limits.max_bytes,
            ", ".join(f"{one.path} ({one.stat.st_size:,} bytes)" for one in largest),
        )
    )


def _entry(one: FoundFile, cache: "_Cache") -> TreeEntry:
    digest = cache.find(one)
    size = one.stat.st_size
    if digest is None:
        check_path(one.path)
        digest, size = _hash_still(one)
        cache.add(one, digest)
    return TreeEntry(one.path, digest, size, bool(one.stat.st_mode & 0o100))


def _hash_still(one: FoundFile) -> Tuple[str, int]:
    """The digest of a file that does not change meanwhile; tried a few times."""
    for _ in range(3):
        before = os.stat(one.absolute)
        digest, size = hash_file(one.absolute)
        after = os.stat(one.absolute)
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size) and size == after.st_size:
            return digest, size
    raise SnapshotException(f"{one.path!r} changes while it is read; stop what writes it, or name it in .amlignore.")


class _Cache:
    """Digests of a folder's files by size, times and inode, and of the tree of all; one that does not read is none."""

    def __init__(self, folder: str, root: str) -> None:
        self._path = os.path.join(folder, hashlib.sha256(os.fsencode(root)).hexdigest()[:32] + ".json")
        self._old: Dict[str, List[object]] = {}
        self._new: Dict[str, List[object]] = {}
        self._tree: Optional[str] = None
        try:
            with open(self._path, "rb") as file:
                found = json.loads(file.read().decode("utf-8"))
            if found["format"] == _CACHE_FORMAT and found["root"] == root:
                self._old, self._tree = found["files"], found["tree"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._root = root

    def find(self, one: FoundFile) -> Optional[str]:
        """The digest of a file that is as it was."""
        row = self._old.get(one.path)
        if isinstance(row, list) and row[:4] == _marks(one.stat) and isinstance(row[4], str):
            self._new[one.path] = row
            return row[4]
        return None

    def add(self, one: FoundFile, digest: str) -> None:
        """A file was hashed; the tree is another one now."""
        self._tree = None
        if one.stat.st_mtime_ns < time.time_ns() - RACY_NS and one.stat.st_ctime_ns < time.time_ns() - RACY_NS:
            self._new[one.path] = [*_marks(one.stat), digest]

    def find_tree(self) -> Optional[str]:
        """The digest of the whole tree, where every file is as it was and none is gone."""
        return self._tree if len(self._new) == len(self._old) else None

    def save(self, tree: str, count: int) -> None:
        """Keep what was found, for the next time; not a tree with files too young to be kept."""
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            data: Dict[str, object] = {"format": _CACHE_FORMAT, "root": self._root, "files": self._new}
            data["tree"] = tree if len(self._new) == count else None
            write_atomically(Path(self._path), json.dumps(data, separators=(",", ":")).encode("ascii"))
        except OSError:
            pass


def _marks(found: os.stat_result) -> List[object]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
