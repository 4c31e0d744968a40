"""Many files on their way to this machine: several at once, taken up where they break off, checked, counted."""

import os
import shutil
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import Any, Callable, List, Optional, Sequence, Tuple, Type

from runyard.client.http import Server
from runyard.errors import AzureMLException, ServerUnreachableError, ServiceException, StorageFullError
from runyard.files.cache import ContentCache, Entry, cache_key
from runyard.files.fetch import Fetched, fetch, partial_name
from runyard.files.layout import DISK_FULL
from runyard.protocol.mounts import DataFile, shown_url
from runyard.protocol.record import record
from runyard.protocol.words import counted

#: Files that are on their way at once.
AT_ONCE = 8
#: How often a waiting caller is told to say how far it is, seconds.
TICK_S = 1.0
#: How often a file is asked for without a byte coming, and the pauses between, seconds.
TRIES_MAX, RETRY_FIRST_S, RETRY_LAST_S = 6, 0.1, 5.0

#: Told the bytes that came, and a file once it is whole.
OnBytes = Callable[[int], None]


@record
class Wanted:
    """A file to be brought here, to ``target``."""

    target: str
    #: Its address; or a datastore of the workspace and a path in it.
    url: Optional[str] = None
    datastore: str = ""
    path: str = ""
    #: As it was listed; None and '' where nobody knows.
    size_bytes: Optional[int] = None
    tag: str = ""

    @classmethod
    def of(cls, file: DataFile, target: str) -> "Wanted":
        """A dataset's file that is not on this disk, to be brought to ``target``."""
        source = file.source
        return cls(target, source.url, source.datastore or "", file.origin, file.size_bytes, file.tag)

    @property
    def shown(self) -> str:
        """What it is called in a message: without a signature."""
        return shown_url(self.url) if self.url is not None else f"{self.datastore}/{self.path}"


@record
class Received:
    """A file that is here."""

    wanted: Wanted
    size_bytes: int
    sha256: str
    etag: Optional[str] = None


class Stopped(Exception):
    """The download was told to stop."""


class Downloads:
    """Brings files; one object serves one group of them."""

    def __init__(
        self,
        server: Optional[Server],
        workspace: str,
        allow_private: bool,
        cache: Optional[ContentCache] = None,
        may_link: bool = False,
        patience_s: float = 30.0,
        skip: Tuple[Type[Exception], ...] = (),
    ) -> None:
        """``may_link``: a target may be another name of the cache's own file, which nobody may write.

        ``patience_s``: how long a server of ours that is away is waited for. ``skip``: errors of one file that leave
        it out, and the others go on.
        """
        self._server = server
        self._workspace = workspace
        self._allow_private = allow_private
        self._cache = cache
        self._may_link = may_link
        self._patience_s = patience_s
        self._skip = skip
        self._stop = threading.Event()
        self._on_bytes: OnBytes = lambda _count: None

    def carry_out(
        self,
        wanted: Sequence[Wanted],
        on_bytes: Optional[OnBytes] = None,
        on_file: Optional[Callable[[Received], None]] = None,
        on_tick: Optional[Callable[[], None]] = None,
    ) -> List[Received]:
        """Bring all of them, in any order; returns them in theirs. The first that fails ends the others.

        NotFoundError and AzureMLException name the file. ``on_bytes`` and ``on_file`` are called by several threads,
        ``on_tick`` every second or so by the caller's own.
        """
        self._on_bytes = on_bytes or self._on_bytes

        def bring(one: Wanted) -> Optional[Received]:
            try:
                received = self._bring(one)
            except self._skip:
                return None
            if on_file is not None:
                on_file(received)
            return received

        pool = ThreadPoolExecutor(max(1, min(AT_ONCE, len(wanted))))
        try:
            work = [pool.submit(bring, one) for one in wanted]
            while wait(work, TICK_S, FIRST_EXCEPTION).not_done and not any(map(_has_failed, work)):
                if on_tick is not None:
                    on_tick()
            failed = next(filter(_has_failed, work), None)
            if failed is not None:
                raise failed.exception()  # type: ignore[misc]
            return [received for received in (one.result() for one in work) if received is not None]
        finally:
            # Also where a signal's handler ends the waiting: nothing goes on in the background.
            self._stop.set()
            pool.shutdown()

    def _bring(self, one: Wanted) -> Received:
        if self._stop.is_set():
            raise Stopped
        os.makedirs(os.path.dirname(one.target), exist_ok=True)
        cache = self._cache
        if cache is None or (one.size_bytes or 0) > cache.max_bytes:
            found = self._receive(one, one.target, None)
            assert found is not None
            return Received(one, found.size_bytes, found.sha256, found.etag)
        key = self.key(one)
        with cache.lock(key, self._pause):
            entry = self._cached(cache, key, one)
        return Received(one, entry.size_bytes, entry.sha256, entry.etag)

    def key(self, one: Wanted) -> str:
        """What its content is called in the cache."""
        if one.url is not None:
            return cache_key("url", one.url)
        # Without a tag two states of a file could be one.
        return cache_key("datastore", self._workspace, one.datastore, one.path, str(one.size_bytes), one.tag)

    def _cached(self, cache: ContentCache, key: str, one: Wanted) -> Entry:
        """The content at its target and in the cache, brought there if it is not, or is another by now."""
        entry = cache.find(key)
        if entry is not None and one.url is None and one.tag and self._is_placed(entry, one.target):
            self._on_bytes(entry.size_bytes)
            return entry
        known = None
        if entry is not None and one.url is not None:
            known = Fetched(entry.size_bytes, entry.etag, entry.sha256, entry.modified)
        path = cache.new_file()
        try:
            found = self._receive_with_room(cache, one, path, known)
            if found is None and entry is not None:
                if self._is_placed(entry, one.target):
                    self._on_bytes(entry.size_bytes)
                    return entry
                found = self._receive_with_room(cache, one, path, None)
            assert found is not None
            entry = Entry(path, found.size_bytes, found.sha256, found.etag, found.modified)
            # Before it is kept: what others bring may drive it out at once.
            self._place(entry, one.target)
            return cache.keep(key, path, entry)
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def _receive_with_room(
        self, cache: ContentCache, one: Wanted, path: str, known: Optional[Fetched]
    ) -> Optional[Fetched]:
        """As ``_receive``; on a full disk once more, when the cache has given back all that it can."""
        try:
            return self._receive(one, path, known)
        except StorageFullError:
            cache.make_room(cache.max_bytes)
            return self._receive(one, path, known)

    def _receive(self, one: Wanted, path: str, known: Optional[Fetched]) -> Optional[Fetched]:
        """Bring it to ``path``; None where it is ``known`` still."""
        if one.url is None:
            return self._receive_from_datastore(one, path)
        last = [0]

        def progress(size: int, _total: Optional[int]) -> None:
            self._count(size - last[0])
            last[0] = size

        found = fetch(one.url, path, self._allow_private, progress=progress, known=known)
        _check_size(one, found)
        return found

    def _receive_from_datastore(self, one: Wanted, path: str) -> Fetched:
        partial = partial_name(path)
        try:
            with open(partial, "wb") as file:
                digest = self.take_up(one, file)
                found = Fetched(file.tell(), one.tag, digest)
            _check_size(one, found)
            os.replace(partial, path)
            return found
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFullError(f"The disk of {path} is full; free some space on it.") from None
            raise AzureMLException(f"{one.shown} cannot be kept: {error}.") from None
        finally:
            if os.path.exists(partial):
                os.unlink(partial)

    def take_up(self, one: Wanted, file: Any) -> str:
        """Write the whole of a datastore's file, going on where it breaks off; returns its SHA-256."""
        hasher, tries, ends_at = sha256(), 0, time.monotonic() + self._patience_s
        while True:
            before = file.tell()
            try:
                self._append(one, file, hasher)
                return hasher.hexdigest()
            except ServiceException as error:
                if file.tell() > before:
                    tries, ends_at = 0, time.monotonic() + self._patience_s
                # A server of ours that is away comes back; a service behind it that fails may not.
                tries += not isinstance(error, ServerUnreachableError)
                if tries >= TRIES_MAX or time.monotonic() > ends_at:
                    raise
                if not one.tag:
                    # It may have changed meanwhile, and nobody could tell: from the start again.
                    file.truncate(file.seek(0))
                    hasher = sha256()
                self._stop.wait(min(RETRY_LAST_S, RETRY_FIRST_S * 2**tries))

    def _append(self, one: Wanted, file: Any, hasher: Any) -> None:
        assert self._server is not None
        query = {"offset": file.tell() or None, "tag": one.tag or None}
        names = {"workspace": self._workspace, "name": one.datastore, "path": one.path}
        for piece in self._server.stream("read_datastore_file", query, **names):
            file.write(piece)
            hasher.update(piece)
            self._count(len(piece))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _count(self, size: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._on_bytes(size)

    def _is_placed(self, entry: Entry, target: str) -> bool:
        """Place it; False where it was driven out of the cache meanwhile."""
        try:
            self._place(entry, target)
        except FileNotFoundError:
            return False
        return True

    def _place(self, entry: Entry, target: str) -> None:
        """The cached content under its name in the target's folder, all of it or nothing."""
        if self._may_link:
            try:
                os.link(entry.path, target)
                return
            except OSError:
                pass  # another disk, or a file system without links
        other = partial_name(target)
        try:
            shutil.copyfile(entry.path, other)
            if os.path.getsize(other) != entry.size_bytes:
                raise AzureMLException(f"The cached content of {target} is damaged; try again.")
            os.replace(other, target)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFullError(f"The disk of {target} is full; free some space on it.") from None
            raise
        finally:
            if os.path.exists(other):
                os.unlink(other)


class Tally:
    """How far a group of files is; many threads count."""

    def __init__(self, what: str, files: int, size_bytes: Optional[int]) -> None:
        """``size_bytes``: of all of them; None where it is not known."""
        self._what, self._files, self._total = what, files, size_bytes
        self._guard = threading.Lock()
        self._bytes = self._done = 0

    def add_bytes(self, count: int) -> None:
        """So many bytes more."""
        with self._guard:
            self._bytes += count

    def add_file(self, _received: Received) -> None:
        """One file more."""
        with self._guard:
            self._done += 1

    def sentence(self) -> str:
        """As a person reads it."""
        of = "" if self._total is None else f" of {self._total / 1e6:.1f}"
        return f"{self._what}: {self._done} of {counted(self._files, 'file')}, {self._bytes / 1e6:.1f}{of} MB."


def _has_failed(work: "Future[Any]") -> bool:
    return work.done() and work.exception() is not None


def _check_size(one: Wanted, found: Optional[Fetched]) -> None:
    if found is not None and one.size_bytes is not None and found.size_bytes != one.size_bytes:
        raise AzureMLException(
            f"{one.shown} arrived with {found.size_bytes} bytes and was listed with {one.size_bytes}: it has changed "
            "meanwhile; start again."
        )
