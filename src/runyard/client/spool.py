"""What ``run.log`` does: one record appended to a file with one write. Never waits, never fails a training.

The record's format is in protocol/metrics.py; its constants stand here again, since importing that module would cost
the job more than logging does. A test holds the two together.
"""

import json
import os
import struct
import threading
from os import write
from time import time_ns
from typing import Any, Dict, Optional, Tuple
from weakref import WeakSet
from zlib import crc32

from runyard.errors import UserErrorException

_MAGIC = b"RYSPOOL1"
_NO_STEP = -(1 << 63)
_HEADER = struct.Struct("<II").pack
_SCALAR = struct.Struct("<BHqqd").pack
_TEXT = struct.Struct("<BHqq").pack
_KEY = struct.Struct("<BH").pack
_KEY_KIND, _SCALAR_KIND, _TEXT_KIND, _INTEGER_KIND = 0, 1, 2, 3
_EXACT = 1 << 53
_FULL = "No space left on device"

#: Limits of one name in UTF-8 bytes, of one text in bytes, and of the names of one writer.
KEY_BYTES_MAX, TEXT_BYTES_MAX, KEYS_MAX = 1_024, 1 << 20, 65_535


class SpoolWriter:
    """One process's file of metrics; another process, or a fork, gets one of its own. Threads share it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file = _File("", -1)
        #: What was written to files that this process has ended: bytes, by writer.
        self._ended: Dict[str, int] = {}
        #: Why values were lost, if any were: the disk was full.
        self.failure: Optional[str] = None
        _writers.add(self)

    @property
    def writer(self) -> str:
        """The id of the present file; '' before the first value."""
        return self._file.writer

    def log(self, name: str, value: Any, description: str = "", step: Optional[int] = None) -> None:
        """Append one value: a number, or whatever JSON can hold. UserErrorException for what it cannot.

        A full disk does not raise: it is remembered in ``failure``, and later values are written again once they fit.
        """
        # This is the training loop's cost: no lock, no system call but one write, one branch for the common case.
        # The file is taken once, since another thread may end it; it stays open as long as anyone holds it.
        file = self._file
        number = file.keys.get(name)
        if number is None:
            file, number = self._define(name)
        at = _NO_STEP if step is None else step if step.__class__ is int else _checked_step(step)
        try:
            if value.__class__ is float:
                payload = _SCALAR(_SCALAR_KIND, number, at, time_ns() // 1000, value)
            else:
                payload = _payload(number, at, time_ns() // 1000, value)
        except struct.error:
            payload = _payload(number, _checked_step(at), time_ns() // 1000, value)
        record = _HEADER(len(payload), crc32(payload)) + payload
        try:
            written = write(file.descriptor, record)
            if written != len(record):
                self._abandon(file, written)
        except OSError as error:
            self.failure = str(error)

    def sizes(self) -> Dict[str, int]:
        """How many bytes of each file of this process have been written, by writer."""
        with self._lock:
            found = dict(self._ended)
            if self._file.descriptor >= 0:
                found[self._file.writer] = os.fstat(self._file.descriptor).st_size
        return found

    def flush(self) -> None:
        """Hand the file to the disk."""
        file = self._file
        if file.descriptor >= 0:
            os.fsync(file.descriptor)

    def close(self) -> None:
        """End this file; the next value opens another."""
        with self._lock:
            self._end()

    def _define(self, name: str) -> "Tuple[_File, int]":
        """The present file, and the number that the name has in it."""
        encoded = _checked_name(name)
        with self._lock:
            if self._file.descriptor < 0:
                self._file = self._open()
            file = self._file
            number = file.keys.get(name)
            if number is None:
                if len(file.keys) >= KEYS_MAX:
                    raise UserErrorException(f"A process can log {KEYS_MAX} names of metrics at most.")
                number = len(file.keys)
                payload = _KEY(_KEY_KIND, number) + encoded
                if self._write(file, _HEADER(len(payload), crc32(payload)) + payload):
                    file.keys[name] = number
        return file, number

    def _open(self) -> "_File":
        # One of several processes says which: whoever reads the metrics can tell them by it (protocol/metrics.rank_of).
        rank = os.environ.get("RUNYARD_RANK", "")
        writer = (f"r{rank}-" if rank.isdigit() else "") + os.urandom(8).hex()
        path = os.path.join(self._folder, writer + ".spool")
        try:
            file = _File(writer, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self.failure = str(error)
            return _File("", -1)
        return file if self._write(file, _MAGIC) else _File("", -1)

    def _write(self, file: "_File", record: bytes) -> bool:
        try:
            written = write(file.descriptor, record)
        except OSError as error:
            self.failure = str(error)
            return False
        if written != len(record):
            self.failure = _FULL
            if file is self._file:
                self._end(written)
            return False
        return True

    def _abandon(self, file: "_File", torn_bytes: int) -> None:
        """The disk was full in the middle of a record: readers stop there, so what follows goes to another file."""
        self.failure = _FULL
        with self._lock:
            if file is self._file:
                self._end(torn_bytes)

    def _end(self, torn_bytes: int = 0) -> None:
        if self._file.descriptor >= 0:
            self._ended[self._file.writer] = os.fstat(self._file.descriptor).st_size - torn_bytes
        self._file = _File("", -1)

    def _forget_parent(self) -> None:
        """After a fork: the file, and what was written to it, are the parent's."""
        self._lock = threading.Lock()
        self._file = _File("", -1)
        self._ended = {}


def read_mark(folder: str, writer: str) -> int:
    """How many bytes of that writer's spool are stored on the server, as far as its runner has said."""
    try:
        with open(os.path.join(folder, writer + ".mark")) as file:
            return int(file.read() or 0)
    except (OSError, ValueError):
        return 0


def write_mark(folder: str, writer: str, size_bytes: int) -> None:
    """Say it: the writing process waits for this before it reads its own metrics.

    The folder is the job's, and whoever writes this may be root: nothing that lies there is followed.
    """
    path = os.path.join(folder, writer + ".mark")
    try:
        os.unlink(path + ".new")
    except FileNotFoundError:
        pass
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(str(size_bytes))
    os.replace(path + ".new", path)


class _File:
    """An opened spool and the numbers of its names; closed when nobody holds it any more."""

    __slots__ = ("descriptor", "keys", "writer")

    def __init__(self, writer: str, descriptor: int) -> None:
        self.writer = writer
        self.descriptor = descriptor
        self.keys: Dict[str, int] = {}

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _forget_parents() -> None:
    for writer in list(_writers):
        writer._forget_parent()


_writers: "WeakSet[SpoolWriter]" = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


def _payload(number: int, at: int, now: int, value: Any) -> bytes:
    """The payload of a value that is no plain float."""
    plain, kind = _plain(value)
    if kind == _TEXT_KIND:
        return _TEXT(kind, number, at, now) + bytes(plain)
    return _SCALAR(kind, number, at, now, plain)


def _plain(value: Any) -> Any:
    """(what is stored, its kind) for anything but a float: numpy's scalars, integers, booleans, texts, lists."""
    if isinstance(value, bool):
        return _text(value)
    if isinstance(value, int):
        return (float(value), _INTEGER_KIND) if -_EXACT <= value <= _EXACT else _text(_checked_integer(value))
    if isinstance(value, float):
        return float(value), _SCALAR_KIND
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "size", 1) == 1:
        plain = item()
        return (plain, _SCALAR_KIND) if plain.__class__ is float else _plain(plain)
    if hasattr(value, "numpy"):
        return _plain(value.numpy())
    if hasattr(value, "tolist"):
        return _text(value.tolist())
    return _text(value)


def _text(value: Any) -> Any:
    try:
        encoded = json.dumps(value, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise UserErrorException(
            f"A metric's value must be a number or plain data, not {type(value).__name__}: {error}."
        ) from None
    if len(encoded) > TEXT_BYTES_MAX:
        raise UserErrorException(f"A metric's value has {len(encoded)} bytes as JSON; the limit is {TEXT_BYTES_MAX}.")
    return encoded, _TEXT_KIND


def _checked_integer(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise UserErrorException(f"The integer {value} does not fit into 64 bits; log it as a float or a text.")
    return value


def _checked_step(step: Any) -> int:
    try:
        number = int(step)
    except (TypeError, ValueError):
        raise UserErrorException(f"A step is a whole number, not {step!r}.") from None
    if not -(1 << 63) < number < 1 << 63:
        raise UserErrorException(f"The step {number} does not fit into 64 bits.")
    return number


def _checked_name(name: Any) -> bytes:
    if not isinstance(name, str):
        raise UserErrorException(f"A metric's name is text, not {name!r}.")
    encoded = name.encode("utf-8", "surrogatepass")
    if not 0 < len(encoded) <= KEY_BYTES_MAX or "\0" in name:
        raise UserErrorException(f"A metric's name has 1 to {KEY_BYTES_MAX} bytes and no NUL; this has {len(encoded)}.")
    return name.encode("utf-8", "replace")
