"""Downloaded files that the runs of a node share: bounded, checked before each use, dropped when damaged.

An entry is two files, the content and beside it what is known of it. A content is taken as it is while its size and the
time of its last change are as they were written down in this boot of the machine; else it is hashed again.
Standard library.
"""

import fcntl
import json
import os
import tempfile
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from runyard.files.hashing import sha256_of
from runyard.files.processes import boot_id
from runyard.protocol.record import record

#: Most bytes of a cache by default.
BYTES_MAX = 20 << 30
#: Files that writers of different keys lock.
LOCKS = 256
#: Pauses between tries for a lock that another has, seconds.
LOCK_FIRST_S, LOCK_LAST_S = 0.001, 0.1
#: How often a process looks at all contents while it fills the cache once.
LOOKS = 16
#: A file that was begun this long ago is no longer being written, seconds.
LEFT_OVER_S = 2 * 86_400.0


@record
class Entry:
    """A content of the cache."""

    path: str
    size_bytes: int
    sha256: str
    #: What its origin called this state of it.
    etag: Optional[str] = None
    modified: Optional[str] = None


class ContentCache:
    """The cache below ``root``; used by many processes at once."""

    def __init__(self, root: str, max_bytes: int = BYTES_MAX) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._size: Optional[int] = None
        #: Bytes that this process has added since it looked at all.
        self._unseen = 0
        for name in ("tmp", "locks"):
            os.makedirs(os.path.join(root, name), exist_ok=True)

    @property
    def max_bytes(self) -> int:
        """What is larger is never kept."""
        return self._max_bytes

    @contextmanager
    def lock(self, key: str, wait: Callable[[float], Any] = time.sleep) -> Iterator[None]:
        """Be the only one that looks for that key and brings it.

        ``wait`` is called between the tries, with seconds; what it raises ends the waiting, which may take as long as
        another's download.
        """
        number = int(key[:8], 16) % LOCKS
        with open(os.path.join(self._root, "locks", f"{number:02x}"), "w") as file:
            pause_s = LOCK_FIRST_S
            while not _is_locked(file):
                wait(pause_s)
                pause_s = min(LOCK_LAST_S, pause_s * 1.5)
            yield

    def find(self, key: str) -> Optional[Entry]:
        """The content of that key, checked; None where there is none, or a damaged one, which is dropped."""
        try:
            return self._checked(key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Half an entry, or one that was driven out meanwhile.
            return None

    def _checked(self, key: str) -> Optional[Entry]:
        path = self._path(key)
        with open(path + ".json", "rb") as file:
            facts = json.loads(file.read().decode())
        stat = os.stat(path)
        entry = Entry(path, facts["size"], facts["sha256"], facts.get("etag"), facts.get("modified"))
        mark = [stat.st_size, stat.st_mtime_ns, boot_id()]
        if facts.get("mark") != mark:
            if stat.st_size != entry.size_bytes or sha256_of(path) != entry.sha256:
                self.drop(key)
                return None
            self._write_facts(path, entry, mark)
        os.utime(path, ns=(int(time.time() * 1e9), stat.st_mtime_ns))
        return entry

    def keep(self, key: str, path: str, entry: Entry) -> Entry:
        """Take a whole file, made by ``new_file``, into the cache; older contents go where there is no room for it."""
        self.make_room(entry.size_bytes)
        os.chmod(path, 0o444)
        stat = os.stat(path)
        kept = self._path(key)
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        self._write_facts(kept, entry, [stat.st_size, stat.st_mtime_ns, boot_id()])
        os.replace(path, kept)
        self._size = (self._size or 0) + entry.size_bytes
        self._unseen += entry.size_bytes
        return Entry(kept, entry.size_bytes, entry.sha256, entry.etag, entry.modified)

    def new_file(self) -> str:
        """The path of a new file on the cache's disk."""
        handle, path = tempfile.mkstemp(dir=os.path.join(self._root, "tmp"))
        os.close(handle)
        return path

    def drop(self, key: str) -> None:
        """Forget a content. Whoever has linked it keeps it."""
        for path in (self._path(key), self._path(key) + ".json"):
            try:
                os.unlink(path)
            except OSError:
                pass

    def make_room(self, size_bytes: int) -> None:
        """Drop what was not used for longest until so many bytes more are within the limit."""
        # Other processes fill it too, so what is there is looked at again every now and then.
        is_old = self._unseen * LOOKS > self._max_bytes
        if self._size is None or is_old or self._size + size_bytes > self._max_bytes:
            found, self._unseen = self._contents(), 0
            self._size = sum(size for _, size, _ in found)
            for _, size, key in sorted(found):
                if self._size + size_bytes <= self._max_bytes:
                    break
                self.drop(key)
                self._size -= size

    def _contents(self) -> List[Tuple[int, int, str]]:
        """(when it was used last, size, key) of each."""
        found = []
        for parent, folders, names in os.walk(self._root):
            if parent == self._root:
                folders[:] = [one for one in folders if len(one) == 2 or one == "tmp"]
                continue
            for name in names:
                path = os.path.join(parent, name)
                try:
                    stat = os.stat(path)
                    if os.path.basename(parent) == "tmp":
                        # A writer was killed.
                        if stat.st_mtime < time.time() - LEFT_OVER_S:
                            os.unlink(path)
                    elif not name.endswith(".json"):
                        found.append((stat.st_atime_ns, stat.st_size, name))
                except OSError:
                    continue
        return found

    def _write_facts(self, path: str, entry: Entry, mark: List[Any]) -> None:
        facts: Dict[str, Any] = {"size": entry.size_bytes, "sha256": entry.sha256, "mark": mark}
        facts.update(etag=entry.etag, modified=entry.modified)
        other = self.new_file()
        with open(other, "w") as file:
            json.dump(facts, file)
        os.replace(other, path + ".json")

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key[:2], key)


def open_cache(cache_folder: str) -> ContentCache:
    """A node's cache, below the folder of all its caches; RUNYARD_DATA_CACHE_BYTES is its limit."""
    most = os.environ.get("RUNYARD_DATA_CACHE_BYTES", "")
    return ContentCache(os.path.join(cache_folder, "data"), int(most) if most.isdigit() else BYTES_MAX)


def cache_key(*parts: str) -> str:
    """The key of what these parts name together."""
    return sha256("\n".join(str(len(part)) + " " + part for part in parts).encode("utf-8", "replace")).hexdigest()


def _is_locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
