"""The blob store of one disk: contents under their digests, written by several processes at once, never changed.

Blobs of 64 KiB and more are files ``blobs/<kind>/<2 hex>/<hex>``, smaller ones lie in packs (``files/packs.py``). What
a call has returned is durable; what is not whole is never visible: everything is written under ``tmp/``, handed to the
disk, and renamed.
"""

import errno
import fcntl
import io
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from runyard.errors import IntegrityError, NotFoundError, StorageFullError, UserErrorException
from runyard.files.layout import DISK_FULL
from runyard.files.packs import PackIndex, write_pack
from runyard.protocol.digests import CHUNK_BYTES, Hasher, check_digest, combine, digest_bytes
from runyard.protocol.record import record

#: Blobs below this size lie in packs.
PACKED_BELOW = 64 << 10
#: Largest pack, bytes.
PACK_BYTES = 256 << 20
#: Read and copy size, bytes.
PIECE_BYTES = 1 << 20
#: Threads that hash: the digests are computed without the interpreter's lock.
HASH_THREADS = min(8, os.cpu_count() or 1)

#: ioctl(2) FICLONE: share the blocks of a whole file where the file system can.
_FICLONE = 0x40049409
_UPLOAD_ID_CHARS = frozenset("0123456789abcdef")


@record
class Stored:
    """A file whose content is in the store."""

    path: str
    digest: str
    size_bytes: int


class BlobStore:
    """The store below ``root``; open it as often as you like."""

    def __init__(self, root: Path, is_first: bool = True) -> None:
        """``is_first``: make what is missing, and find packs whose writer died; a runner need not do it again."""
        self._root = root
        if is_first:
            for name in ("blobs", "packs", "tmp", "uploads"):
                (root / name).mkdir(parents=True, exist_ok=True)
        self._index = PackIndex(root, is_first)
        if is_first:
            self._index.adopt_unknown_packs()

    def has(self, digests: Iterable[str]) -> Set[str]:
        """Those of the digests whose contents are here."""
        wanted = list(digests)
        found = self._index.find_all(wanted)
        found.update(one for one in wanted if one not in found and self._blob_path(one).exists())
        return found

    def size(self, digest: str) -> int:
        """Bytes of a content; NotFoundError where it is not here."""
        packed = self._index.find(digest)
        if packed is not None:
            return packed.size_bytes
        try:
            return self._blob_path(digest).stat().st_size
        except FileNotFoundError:
            raise _absent(digest) from None

    def put_many(self, contents: Iterable[bytes]) -> List[str]:
        """Store contents that are in memory; returns their digests, in order."""
        with self._room():
            digests, small = [], {}
            for data in contents:
                digest = digest_bytes(data)
                digests.append(digest)
                if len(data) < PACKED_BELOW:
                    small[digest] = data
                elif not self._blob_path(digest).exists():
                    self._write(data, digest)
            self._pack(small)
        return digests

    def put_files(self, paths: Iterable[Path], move: bool = False) -> List[Stored]:
        """Store files; returns them in order. With ``move`` they may be taken away instead of copied.

        Nothing may write to them meanwhile; a file that changes is found out, and IntegrityError names it.
        """
        files = [str(path) for path in paths]
        with self._room(), ThreadPoolExecutor(HASH_THREADS + 1) as pool:
            sizes = {path: os.stat(path).st_size for path in files}
            small = {path: _read(path) for path in files if sizes[path] < PACKED_BELOW}
            digests = {path: digest_bytes(data) for path, data in small.items()}
            self._pack({digests[path]: data for path, data in small.items()})
            large = [path for path in files if path not in small]
            for path in large:
                digests[path], sizes[path] = self._put_large(path, move, pool)
            self._sync_folders(digests[path] for path in large)
        return [Stored(path, digests[path], len(small[path]) if path in small else sizes[path]) for path in files]

    def put_opened(self, source: BinaryIO) -> Tuple[str, int]:
        """Store a copy of an open file, which may change meanwhile; returns the copy's digest and size."""
        with self._room(), ThreadPoolExecutor(HASH_THREADS) as pool:
            path = self._copied(source)
            try:
                with open(path, "rb") as file:
                    digest, size = _hash_parallel(file.fileno(), pool)
                return self._keep(path, digest, None), size
            finally:
                _remove(path)

    def put_stream(self, pieces: Iterable[bytes], expected: Optional[str] = None) -> str:
        """Store a content that comes in pieces; IntegrityError, and nothing kept, if it is not ``expected``."""
        with self._room():
            hasher, path = Hasher(), self._temporary()
            try:
                with open(path, "wb") as file:
                    for piece in pieces:
                        hasher.update(piece)
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                return self._keep(path, hasher.digest(), expected)
            finally:
                _remove(path)

    def open(self, digest: str) -> BinaryIO:
        """A content to read from; NotFoundError where it is not here."""
        packed = self._index.find(digest)
        if packed is not None:
            return io.BytesIO(self._read_packed(digest))
        try:
            return open(str(self._blob_path(digest)), "rb")
        except FileNotFoundError:
            raise _absent(digest) from None

    def read(self, digest: str) -> bytes:
        """A whole content, checked; IntegrityError if the disk has lost or changed it."""
        with self.open(digest) as file:
            data = file.read()
        if digest_bytes(data) != digest:
            raise IntegrityError(f"The stored content {digest} is damaged; restore it from a copy.")
        return data

    def copy_to(self, digest: str, target: Path, executable: bool = False) -> None:
        """Write a content to a new file. Never a hard link: what a job writes there must not reach the store."""
        with self.open(digest) as source, open(str(target), "xb") as file:
            if not (hasattr(source, "fileno") and _is_file(source) and _clone(source.fileno(), file.fileno())):
                shutil.copyfileobj(source, file, PIECE_BYTES)
        if executable:
            os.chmod(str(target), 0o755)

    def begin_upload(self) -> str:
        """Begin a content that comes in several requests."""
        upload_id = os.urandom(16).hex()
        (self._root / "uploads" / upload_id).touch()
        return upload_id

    def append_upload(self, upload_id: str, offset: int, data: bytes) -> int:
        """Add a part; returns how many bytes are here. A part that is here already is passed over, a gap ignored."""
        with self._room(), open(str(self._upload_path(upload_id)), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # It may have become a blob meanwhile, which nobody may add to.
            self._upload_path(upload_id)
            size = file.seek(0, os.SEEK_END)
            if offset <= size < offset + len(data):
                try:
                    file.write(data[size - offset :])
                    file.flush()
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
            return file.seek(0, os.SEEK_END)

    def finish_upload(self, upload_id: str, expected: str) -> str:
        """Keep the content if it is ``expected``: recomputed here. IntegrityError otherwise, and it is gone.

        Asked again after it was kept, since the answer was lost, it answers the same.
        """
        try:
            return self._finish(self._upload_path(upload_id), expected)
        except (FileNotFoundError, NotFoundError):
            if self.has([expected]):
                return expected
            raise _ended(upload_id) from None

    def _finish(self, path: Path, expected: str) -> str:
        with self._room(), ThreadPoolExecutor(HASH_THREADS) as pool, open(str(path), "rb") as file:
            # Held to the end: nobody adds to what was hashed, and a second request finds it kept.
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fsync(file.fileno())
            digest, _ = _hash_parallel(file.fileno(), pool)
            try:
                return self._keep(str(path), digest, expected)
            finally:
                _remove(str(path))

    def _keep(self, path: str, digest: str, expected: Optional[str]) -> str:
        if expected is not None and digest != expected:
            raise IntegrityError(f"The content that arrived is {digest} and not {expected}; send it again.")
        if os.stat(path).st_size < PACKED_BELOW:
            self._pack({digest: _read(path)})
        else:
            self._place(path, digest)
            self._sync_folders([digest])
        return digest

    def _put_large(self, path: str, move: bool, pool: ThreadPoolExecutor) -> Tuple[str, int]:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            # The disk writes while the processors hash; the second fsync below finds nothing left to do.
            writing = pool.submit(os.fsync, file.fileno())
            digest, size = _hash_parallel(file.fileno(), pool)
            writing.result()
            if self._blob_path(digest).exists():
                return digest, size
            owned = None if move else self._copied(file)
            os.fsync(file.fileno())
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            _remove(owned)
            raise IntegrityError(f"{path!r} changed while it was being stored; try again.")
        if owned is None:
            owned = self._moved(path)
        try:
            self._place(owned, digest)
        finally:
            _remove(owned)
        return digest, size

    def _copied(self, source: BinaryIO) -> str:
        path = self._temporary()
        try:
            with open(path, "wb") as file:
                if not _clone(source.fileno(), file.fileno()):
                    source.seek(0)
                    shutil.copyfileobj(source, file, PIECE_BYTES)
                    file.flush()
                os.fsync(file.fileno())
        except BaseException:
            _remove(path)
            raise
        return path

    def _moved(self, path: str) -> str:
        """The file under a name of ours; copied where it lies on another disk or has other names."""
        target = self._temporary()
        try:
            if os.stat(path).st_nlink == 1 and not os.path.islink(path):
                os.rename(path, target)
                return target
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with open(path, "rb") as file:
            return self._copied(file)

    def _write(self, data: bytes, digest: str) -> None:
        path = self._temporary()
        try:
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._place(path, digest)
        finally:
            _remove(path)

    def _place(self, path: str, digest: str) -> None:
        """Rename a written and synced file to its final name."""
        target = self._blob_path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(target.parent.parent)
        os.chmod(path, 0o444)
        os.rename(path, str(target))
        _sync_folder(target.parent)

    def _sync_folders(self, digests: Iterable[str]) -> None:
        for folder in {self._blob_path(digest).parent for digest in digests}:
            _sync_folder(folder)

    def _pack(self, blobs: Dict[str, bytes]) -> None:
        present = self._index.find_all(list(blobs))
        new = {digest: data for digest, data in blobs.items() if digest not in present}
        while new:
            some, size = {}, 0
            while new and size < PACK_BYTES:
                digest, data = new.popitem()
                some[digest] = data
                size += len(data)
            name = os.urandom(12).hex() + ".pack"
            path = self._temporary()
            os.unlink(path)
            try:
                entries = write_pack(Path(path), some, name)
                os.rename(path, str(self._root / "packs" / name))
            finally:
                _remove(path)
            _sync_folder(self._root / "packs")
            self._index.add(entries, name)

    def _read_packed(self, digest: str) -> bytes:
        packed = self._index.find(digest)
        if packed is None:
            raise _absent(digest)
        with open(str(self._root / "packs" / packed.pack), "rb") as file:
            file.seek(packed.offset)
            data = file.read(packed.size_bytes)
        if digest_bytes(data) != digest:
            raise IntegrityError(f"The stored content {digest} is damaged; restore it from a copy.")
        return data

    def _blob_path(self, digest: str) -> Path:
        kind, _, name = check_digest(digest).partition(":")
        return self._root / "blobs" / kind / name[:2] / name

    def _upload_path(self, upload_id: str) -> Path:
        if len(upload_id) != 32 or not set(upload_id) <= _UPLOAD_ID_CHARS:
            raise UserErrorException(f"{upload_id[:80]!r} is not an upload.")
        path = self._root / "uploads" / upload_id
        if not path.exists():
            raise _ended(upload_id)
        return path

    def _temporary(self) -> str:
        handle, path = tempfile.mkstemp(dir=str(self._root / "tmp"))
        os.close(handle)
        return path

    @contextmanager
    def _room(self) -> Iterator[None]:
        """A full disk as one clear error."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise _full(self._root) from None
            raise
        except Exception as error:
            if "database or disk is full" in str(error):
                raise _full(self._root) from None
            raise


def _hash_parallel(descriptor: int, pool: ThreadPoolExecutor) -> Tuple[str, int]:
    """Digest and size of an opened file, its chunks hashed on several threads."""
    size = os.fstat(descriptor).st_size
    if size <= CHUNK_BYTES:
        return digest_bytes(os.pread(descriptor, CHUNK_BYTES + 1, 0)), size
    starts = range(0, size, CHUNK_BYTES)
    return combine(pool.map(lambda start: _hash_chunk(descriptor, start), starts)), size


def _hash_chunk(descriptor: int, start: int) -> bytes:
    found, position, end = sha256(), start, start + CHUNK_BYTES
    while position < end:
        piece = os.pread(descriptor, min(PIECE_BYTES, end - position), position)
        if not piece:
            break
        found.update(piece)
        position += len(piece)
    return found.digest()


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _is_file(source: BinaryIO) -> bool:
    return not isinstance(source, io.BytesIO)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _remove(path: Optional[str]) -> None:
    if path is not None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _sync_folder(folder: Path) -> None:
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _absent(digest: str) -> NotFoundError:
    return NotFoundError(f"The store has no content {digest}.")


def _ended(upload_id: str) -> NotFoundError:
    return NotFoundError(f"The upload {upload_id} is over or was never begun.")


def _full(root: Path) -> StorageFullError:
    return StorageFullError(f"The disk of {root} is full; free some space on it.")
