"""A mounted input: its remote files as a read-only file system, brought when they are read.

A process of its own for each mount, since what a file system's process does must never wait for what reads it:
``python -m runyard.runner.mounted ATTEMPT-FOLDER INPUT``, and outside of a run ``--client SPEC CACHE MOUNT-POINT``. A
file is brought whole into the node's cache, and is read while it comes; one that is larger than the cache is read
through, block by block. FUSE by the libfuse of this machine.
"""

import errno
import os
import resource
import stat
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from queue import Queue
from typing import Any, Callable, Dict, List, Optional, Set, Union

import mfusepy

from runyard.client.downloads import AT_ONCE, Downloads, Wanted
from runyard.client.http import Server, file_resolver
from runyard.client.local_server import connect
from runyard.errors import RunyardError, ServiceException
from runyard.files.cache import ContentCache, Entry, open_cache
from runyard.protocol.mounted import MountedFile, MountedInput
from runyard.protocol.wire import loads
from runyard.runner.folder import AttemptFolder
from runyard.runner.mount import PATIENCE_S, spec_file, unmount

#: What is brought ahead: everything, if it is at most this share of the cache; else as many files behind an opened one.
AHEAD_SHARE, AHEAD_FILES = 0.25, 16
#: Blocks of files that are read through, bytes, and how many are kept.
BLOCK_BYTES, BLOCKS_MAX = 4 << 20, 16
#: How long the kernel may keep what it was told: nothing here ever changes, seconds.
KEPT_S = 86_400.0
#: Read size that the kernel is asked for, bytes.
READ_BYTES = 1 << 20
#: How often it is looked whether whoever mounted a dataset is there still, seconds.
WATCH_S = 1.0

Note = Callable[[str], None]


class Content:
    """A file's bytes, on their way into the cache or there."""

    def __init__(self, mount: "Mount", wanted: Wanted) -> None:
        self._mount = mount
        self._wanted = wanted
        self.size_bytes = int(wanted.size_bytes or 0)
        self._changed = threading.Condition()
        self._handles = 0
        self._is_coming = False
        #: Bytes from the start that can be read at ``_descriptor``.
        self._here = 0
        self._descriptor = -1
        self._failure: Optional[str] = None
        #: Where it was in the cache when it was looked for last; older contents may have gone since.
        self._path = ""

    def open(self) -> None:
        """Somebody is about to read."""
        with self._changed:
            self._handles += 1
            if self._descriptor < 0 and not self._is_coming and not self._reopen():
                self._is_coming, self._failure = True, None
                threading.Thread(target=self._bring, daemon=True).start()

    def close(self) -> None:
        """A reader is done."""
        with self._changed:
            self._handles -= 1
            self._let_go()

    def bring_ahead(self) -> None:
        """Bring it now, unless somebody does or did."""
        with self._changed:
            if self._path or self._descriptor >= 0 or self._is_coming:
                return
            self._is_coming, self._failure = True, None
        self._bring()

    def read(self, size: int, offset: int) -> bytes:
        """Those bytes, as soon as they are here; OSError(EIO) where they cannot be had."""
        end = min(offset + size, self.size_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._here >= end)
            if self._here < end:
                raise mfusepy.FuseOSError(errno.EIO)
            return os.pread(self._descriptor, max(0, end - offset), offset)

    def _reopen(self) -> bool:
        try:
            if self._path:
                self._descriptor, self._here = os.open(self._path, os.O_RDONLY), self.size_bytes
                return True
        except OSError:
            self._path = ""
        return False

    def _bring(self) -> None:
        cache, downloads = self._mount.cache, self._mount.downloads
        key = downloads.key(self._wanted)
        failure = None
        try:
            with cache.lock(key):
                entry = cache.find(key) if self._wanted.tag else None
                if entry is not None:
                    self._show(os.open(entry.path, os.O_RDONLY), self.size_bytes)
                    self._path = entry.path
                else:
                    self._receive(key)
        except Exception as error:  # noqa: BLE001 - who reads would wait for ever
            failure = str(error) or type(error).__name__
            self._mount.note(f"{self._wanted.shown} cannot be read: {failure}")
        with self._changed:
            self._is_coming, self._failure = False, failure
            self._let_go()
            self._changed.notify_all()

    def _receive(self, key: str) -> None:
        cache = self._mount.cache
        cache.make_room(self.size_bytes)
        path = cache.new_file()
        try:
            self._show(os.open(path, os.O_RDONLY), 0)
            with open(path, "wb", buffering=0) as file:
                digest = self._mount.downloads.take_up(self._wanted, _Counted(file, self))
                size = os.fstat(file.fileno()).st_size
            if size != self.size_bytes:
                raise OSError(errno.EIO, f"it has {size} bytes and was listed with {self.size_bytes}")
            self._path = cache.keep(key, path, Entry(path, size, digest, self._wanted.tag)).path
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def _show(self, descriptor: int, here: int) -> None:
        with self._changed:
            self._descriptor, self._here = descriptor, here
            self._changed.notify_all()

    def arrived(self, here: int) -> None:
        """So many bytes can be read now."""
        with self._changed:
            self._here = here
            self._changed.notify_all()

    def _let_go(self) -> None:
        """Hold no descriptor for a file that nobody reads: there may be a hundred thousand of them."""
        if self._handles == 0 and not self._is_coming and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._here = -1, 0


class _Counted:
    """The file that a content is written to; what was written can be read at once."""

    def __init__(self, file: Any, content: Content) -> None:
        self._file = file
        self._content = content

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._content.arrived(self._file.tell())

    def tell(self) -> int:
        found: int = self._file.tell()
        return found

    def seek(self, place: int) -> int:
        found: int = self._file.seek(place)
        return found

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._content.arrived(size)


class Through:
    """A file that is larger than the cache: blocks as they are asked for, the last ones kept in memory."""

    def __init__(self, mount: "Mount", wanted: Wanted) -> None:
        self._mount = mount
        self._wanted = wanted
        self.size_bytes = int(wanted.size_bytes or 0)
        self._guard = threading.Lock()
        self._handles = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def open(self) -> None:
        """Somebody is about to read."""
        with self._guard:
            self._handles += 1

    def close(self) -> None:
        """A reader is done; nothing is kept for nobody, since there may be many such files."""
        with self._guard:
            self._handles -= 1
            if self._handles == 0:
                self._blocks.clear()

    def bring_ahead(self) -> None:
        """There is no place for it."""

    def read(self, size: int, offset: int) -> bytes:
        """Those bytes; OSError(EIO) where they cannot be had."""
        end, found = min(offset + size, self.size_bytes), []
        while offset < end:
            block = self._block(offset // BLOCK_BYTES)
            piece = block[offset % BLOCK_BYTES :][: end - offset]
            if not piece:
                raise mfusepy.FuseOSError(errno.EIO)
            found.append(piece)
            offset += len(piece)
        return b"".join(found)

    def _block(self, number: int) -> bytes:
        with self._guard:
            data = self._blocks.pop(number, None)
            if data is None:
                data = self._ask(number)
            self._blocks[number] = data
            while len(self._blocks) > BLOCKS_MAX:
                self._blocks.popitem(last=False)
            return data

    def _ask(self, number: int) -> bytes:
        one, mount = self._wanted, self._mount
        query = {"offset": number * BLOCK_BYTES, "length": BLOCK_BYTES, "tag": one.tag or None}
        names = {"workspace": mount.workspace, "name": one.datastore, "path": one.path}
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                return b"".join(mount.server.stream("read_datastore_file", query, **names))
            except RunyardError as error:
                if time.monotonic() > ends_at or not isinstance(error, ServiceException):
                    mount.note(f"{one.shown} cannot be read: {error}")
                    raise mfusepy.FuseOSError(errno.EIO) from None
                time.sleep(1.0)


class Mount(mfusepy.Operations):  # type: ignore[misc]
    """The files of one input by their paths."""

    use_ns = True

    def __init__(self, told: MountedInput, server: Server, cache: ContentCache, note: Note) -> None:
        self.workspace = told.workspace
        self.server = server
        self.cache = cache
        #: Says a sentence where the reader will look for it.
        self.note = note
        self.downloads = Downloads(server, told.workspace, False, patience_s=PATIENCE_S)
        self._folders: Dict[str, Set[str]] = {"/": set()}
        self._links: Dict[str, str] = {}
        self._contents: Dict[str, Union[Content, Through]] = {}
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_mtime": time.time_ns()}
        for one in told.files:
            self._add(one)
        self._order = list(self._contents.values())
        self._places = {path: place for place, path in enumerate(self._contents)}
        self._queue: Queue[Union[Content, Through]] = Queue()
        total = sum(one.size_bytes for one in self._order)
        self._is_brought_whole = total <= AHEAD_SHARE * cache.max_bytes
        if self._is_brought_whole:
            for content in self._order:
                self._queue.put(content)

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """The kernel may keep whatever it was told or has read."""
        if config_3 is not None:
            config_3.kernel_cache = 1
            config_3.entry_timeout = config_3.attr_timeout = KEPT_S
        if conn_info is not None:
            # max_read must be as the mount option says, and max_write decides how many pages a request has room for.
            conn_info.max_read = conn_info.max_write = conn_info.max_readahead = READ_BYTES
        for _ in range(AT_ONCE):
            threading.Thread(target=self._bring_ahead, daemon=True).start()

    def getattr(self, path: str, fh: Optional[int] = None) -> Dict[str, Any]:
        """What stat(2) tells."""
        if path in self._contents:
            size = self._contents[path].size_bytes
            return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": size, **self._owner}
        if path in self._links:
            size = len(os.fsencode(self._links[path]))
            return {"st_mode": stat.S_IFLNK | 0o777, "st_nlink": 1, "st_size": size, **self._owner}
        if path in self._folders:
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, **self._owner}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> List[str]:
        """A folder's names."""
        return [".", "..", *sorted(self._folders[path])]

    def readlink(self, path: str) -> str:
        """Where a link leads."""
        return self._links[path]

    def open(self, path: str, flags: int) -> int:
        """A file to read; the ones behind it are brought too."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise mfusepy.FuseOSError(errno.EROFS)
        self._contents[path].open()
        if not self._is_brought_whole:
            place = self._places[path]
            for content in self._order[place + 1 : place + 1 + AHEAD_FILES]:
                self._queue.put(content)
        return 0

    def release(self, path: str, fh: int) -> int:
        """The reader is done."""
        self._contents[path].close()
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Some bytes of a file."""
        return self._contents[path].read(size, offset)

    def _add(self, one: MountedFile) -> None:
        path = "/" + one.relative
        if one.link is not None:
            self._links[path] = one.link
        else:
            wanted = Wanted("", None, one.datastore, one.path, one.size_bytes, one.tag)
            kind = Through if one.size_bytes > self.cache.max_bytes else Content
            self._contents[path] = kind(self, wanted)
        while path != "/":
            parent = os.path.dirname(path)
            is_known = parent in self._folders
            self._folders.setdefault(parent, set()).add(os.path.basename(path))
            if is_known:
                return
            path = parent

    def _bring_ahead(self) -> None:
        while True:
            self._queue.get().bring_ahead()


def main(path: str, name: str) -> None:
    """Serve an attempt's input until it is unmounted."""
    folder = AttemptFolder(path)
    facts = folder.facts
    resolve = (
        file_resolver(Path(facts.server_file), facts.server_url) if facts.server_file else lambda: facts.server_url
    )
    told = loads(MountedInput, spec_file(folder, name).read_text())
    _serve(
        Mount(told, Server(resolve, folder.secret), open_cache(facts.cache_folder), folder.note),
        str(folder.inputs / name),
        folder.has_user,
    )


def main_of_client(spec: str, cache: str, target: str) -> None:
    """Serve a dataset until it is unmounted, or whoever mounted it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        unmount(target)

    threading.Thread(target=watch, daemon=True).start()
    told = loads(MountedInput, Path(spec).read_text())
    _serve(Mount(told, connect(start=False), open_cache(cache), print), target)


def _serve(mount: Mount, target: str, is_for_others: bool = False) -> None:
    """``is_for_others``: a user reads it who is not this one; the folder above says which."""
    _allow_many_files()
    others = {"allow_other": True} if is_for_others else {}
    mfusepy.FUSE(mount, target, foreground=True, ro=True, fsname="runyard", max_read=READ_BYTES, **others)


def _allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    if sys.argv[1] == "--client":
        main_of_client(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
