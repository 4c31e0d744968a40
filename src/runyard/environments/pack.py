"""A built environment as one content: an index of its files, then their bytes, one file after another.

The server writes it, and a node of the same kind lays it out in place of a build. It is not compressed: that takes
longer than a network of these days. Nothing in it names a folder: uv's relocatable environments have two lines and one
link that do, and these are made anew for the node's own interpreter.
"""

import json
import os
import platform
import shutil
import struct
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any, BinaryIO, Callable, Iterable, Iterator, List, Optional, Tuple

from runyard.environments.layers import Layers
from runyard.environments.pythons import Interpreter, find_minor
from runyard.environments.task import BuildTask
from runyard.errors import IntegrityError, RunyardError
from runyard.files.layout import DISK_FULL
from runyard.protocol.digests import CHUNK_BYTES, WHOLE, combine
from runyard.protocol.environments import Builder, Lock
from runyard.protocol.record import record

_MAGIC = b"RYENV1\n"
_LENGTH = struct.Struct("<Q")
#: Longest index, bytes: some 500,000 files.
_INDEX_MAX = 64 << 20
#: What each environment has of its own: the link to the interpreter, what names that, its marker, and uv's lock.
_PYTHON, _SETTINGS = "bin/python", "pyvenv.cfg"
_LEFT_OUT = (_PYTHON, "runyard-ready", ".lock")
#: Chunks that are hashed while the next ones are written.
_HASHED_AT_ONCE = 2


@record
class Pulled:
    """A pack on its way."""

    digest: str
    size_bytes: int
    pieces: Iterable[bytes]


#: Finds the pack of an environment; None where it must be built.
Pull = Callable[[], Optional[Pulled]]


def platform_here() -> str:
    """What decides whether the programs of another host work here, as "x86_64 glibc 2.36"."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        library = "unknown"
    return f"{platform.machine()} {library}"


def can_serve(made: str, wanted: str) -> bool:
    """Does what was built on the platform ``made`` work on ``wanted``? The C library may be newer, and never older."""
    (machine, library, version), (machine_there, library_there, version_there) = _parts(made), _parts(wanted)
    return (machine, library) == (machine_there, library_there) and bool(version) and version <= version_there


def can_be_packed(lock: Lock) -> bool:
    """Is nothing in it bound to the host that built it? What is built from a source may need that host's libraries."""
    return lock.builder == Builder.UV and not lock.sources


def fill_from_pack(task: BuildTask, pull: Pull) -> bool:
    """Fill the task's folder from a pack; False where that cannot be, or a build is faster, with nothing left in it."""
    lock = task.lock
    interpreter = find_minor(lock.python) if can_be_packed(lock) else None
    if interpreter is None:
        return False
    layers = Layers(task.root_folder, lock.python, lock.options, lock.as_of)
    if layers.count(lock.requirements) * 2 > len(lock.requirements):
        return False  # What is here already is linked at once, and the rest is little.
    try:
        found = pull()
        if found is None:
            return False
        task.log(f"Environment {lock.digest[:12]} comes as the server's pack of {found.size_bytes / 1e6:.0f} MB.")
        if unpack(found.pieces, task.folder) != found.digest:
            raise IntegrityError("it arrived damaged")
        _settle(task.folder, interpreter)
    except (RunyardError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        task.log(f"The pack cannot be used, so the environment is built: {error}.")
        shutil.rmtree(task.folder, ignore_errors=True)
        os.mkdir(task.folder, 0o700)
        return False
    layers.keep(lock.requirements, task.folder)
    return True


def write_pack(folder: str, out: BinaryIO) -> None:
    """Write the environment in ``folder`` to ``out``; equal environments give equal bytes."""
    entries = sorted(_entries(folder))
    index = json.dumps(entries, separators=(",", ":")).encode("utf-8", "surrogateescape")
    out.write(_MAGIC + _LENGTH.pack(len(index)) + index)
    out.flush()
    for path, what, *_ in entries:
        if isinstance(what, int):
            with open(os.path.join(folder, path), "rb") as file:
                _send(file.fileno(), out.fileno(), what)


def unpack(pieces: Iterable[bytes], folder: str) -> str:
    """Lay a pack out in ``folder``, as it comes; returns its digest. ValueError for what is none."""
    with ThreadPoolExecutor(1) as pool:
        stream = _Stream(pieces, pool)
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin as a pack does")
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        if length > _INDEX_MAX:
            raise ValueError("its index is too long")
        made = {""}
        for path, what, *more in json.loads(stream.read(length).decode("utf-8", "surrogateescape")):
            _check(path)
            parent = os.path.dirname(path)
            if parent not in made:
                os.makedirs(os.path.join(folder, parent), exist_ok=True)
                made.add(parent)
            if isinstance(what, str):
                _check(what)
                os.symlink(what, os.path.join(folder, path))
            else:
                _write(stream, os.path.join(folder, path), what, *more)
        return stream.digest()


class _Stream:
    """The bytes of a pack as they come, hashed beside the work on them."""

    def __init__(self, pieces: Iterable[bytes], pool: ThreadPoolExecutor) -> None:
        self._chunks = _in_chunks(pieces)
        self._pool = pool
        self._hashes: List[Future[bytes]] = []
        self._view = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes, in pieces; ValueError where there are fewer."""
        while size:
            if not self._view and not self._advance():
                raise ValueError("it ends early")
            piece = self._view[:size]
            self._view = self._view[len(piece) :]
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        return b"".join(self.take(size))

    def digest(self) -> str:
        """Of all bytes; ValueError where there are more than the index says."""
        if self._view or self._advance():
            raise ValueError("it goes on after its last file")
        found = [one.result() for one in self._hashes]
        return f"{WHOLE}:{found[0].hex()}" if len(found) == 1 else combine(found)

    def _advance(self) -> bool:
        chunk = next(self._chunks, b"")
        if chunk:
            self._hashes.append(self._pool.submit(_sha256, chunk))
        if len(self._hashes) > _HASHED_AT_ONCE:
            self._hashes[-1 - _HASHED_AT_ONCE].result()
        self._view = memoryview(chunk)
        return bool(chunk)


def _sha256(chunk: bytes) -> bytes:
    return sha256(chunk).digest()


def _in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one chunk each, but for the last."""
    waiting: List[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        while size >= CHUNK_BYTES:
            joined = b"".join(waiting)
            yield joined[:CHUNK_BYTES]
            waiting, size = [joined[CHUNK_BYTES:]], size - CHUNK_BYTES
    if size:
        yield b"".join(waiting)


def _write(stream: _Stream, path: str, size: int, mode: int, time_ns: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o777)
    try:
        for piece in stream.take(size):
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        # Byte code is known to be its source's by the time.
        os.utime(descriptor, ns=(time_ns, time_ns))
    finally:
        os.close(descriptor)


def _entries(folder: str) -> Iterator[Tuple[Any, ...]]:
    """(path, size, mode, time in nanoseconds) of each file, (path, target) of each link but the interpreter's."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            whole = os.path.join(parent, name)
            path, facts = os.path.relpath(whole, folder), os.lstat(whole)
            if path in _LEFT_OUT:
                continue
            if os.path.islink(whole):
                yield path, os.readlink(whole)
            else:
                yield path, facts.st_size, facts.st_mode & 0o777, facts.st_mtime_ns


def _check(path: str) -> None:
    """Of what the server has written nothing leads out of the folder, however it came to be so."""
    if os.path.isabs(path) or ".." in path.split("/"):
        raise ValueError(f"{path[:80]!r} leads out of it")


def _settle(folder: str, interpreter: Interpreter) -> None:
    """Put this host's interpreter beneath the environment."""
    os.symlink(interpreter.path, os.path.join(folder, _PYTHON))
    path = os.path.join(folder, _SETTINGS)
    own = {"home": os.path.dirname(interpreter.path), "version_info": ".".join(map(str, interpreter.version))}
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n").partition(" = ") for line in file]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{name} = {own.get(name, text)}\n" for name, _, text in lines)


def _send(source: int, target: int, size: int) -> None:
    offset = 0
    while offset < size:
        sent = os.sendfile(target, source, offset, size - offset)
        if not sent:
            raise OSError("a file of the environment has changed")
        offset += sent


def _parts(text: str) -> Tuple[str, str, Tuple[int, ...]]:
    words = (text.split() + ["", "", ""])[:3]
    return words[0], words[1], tuple(int(one) for one in words[2].split(".") if one.isdigit())


if __name__ == "__main__":
    # python -m runyard.environments.pack FOLDER FILE: in a process of its own, since it reads some gigabytes.
    os.nice(10)
    with open(sys.argv[2], "wb") as made:
        write_pack(sys.argv[1], made)
