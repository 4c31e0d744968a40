"""What ``run.log`` does: one record appended to a file with one write. Never waits, never fails a training.

The record's format is in protocol/metrics.py; its constants stand here again, since importing that module would cost
the job more than logging does. A test holds the two together.
"""

import json
import os
import struct
import threading
from os import getpid, write
from time import time_ns
from typing import Any, Dict, Optional
from zlib import crc32

from runyard.errors import UserErrorException

_MAGIC = b"RYSPOOL1"
_NO_STEP = -(1 << 63)
_HEADER = struct.Struct("<II").pack
_SCALAR = struct.Struct("<BHqqd").pack
_SCALAR_BYTES = struct.calcsize("<BHqqd")
_TEXT = struct.Struct("<BHqq").pack
_KEY = struct.Struct("<BH").pack
_KEY_KIND, _SCALAR_KIND, _TEXT_KIND, _INTEGER_KIND = 0, 1, 2, 3
_EXACT = 1 << 53

#: Limits of one name in UTF-8 bytes, of one text in bytes, and of the names of one writer.
KEY_BYTES_MAX, TEXT_BYTES_MAX, KEYS_MAX = 1_024, 1 << 20, 65_535


class SpoolWriter:
    """One process's file of metrics; another process, or a fork, gets one of its own."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._pid = 0
        self._file = -1
        self._keys: Dict[str, int] = {}
        self.writer = ""
        #: How many values were written, which is the sequence number of the last.
        self.sequence = 0
        #: Why values were lost, if any were: the disk was full.
        self.failure: Optional[str] = None

    def log(self, name: str, value: Any, step: Optional[int] = None) -> None:
        """Append one value: a number, or whatever JSON can hold. UserErrorException for what it cannot.

        A full disk does not raise: it is remembered in ``failure``, and later values are written again once they fit.
        """
        now = time_ns() // 1000
        number = self._keys.get(name)
        if number is None or self._pid != getpid():
            number = self._define(name)
        at = _NO_STEP if step is None else step if step.__class__ is int else _checked_step(step)
        # This is the training loop's cost: one branch for the common case, and no call that can be spared.
        try:
            if value.__class__ is float:
                payload = _SCALAR(_SCALAR_KIND, number, at, now, value)
            else:
                payload = _payload(number, at, now, value)
        except struct.error:
            payload = _payload(number, _checked_step(at), now, value)
        with self._lock:
            if self._write(_HEADER(len(payload), crc32(payload)) + payload):
                self.sequence += 1

    def flush(self) -> None:
        """Hand the file to the disk."""
        if self._pid == getpid() and self._file >= 0:
            os.fsync(self._file)

    def close(self) -> None:
        """End this file; the next value opens another."""
        with self._lock:
            if self._file >= 0 and self._pid == getpid():
                os.close(self._file)
            self._file, self._pid, self._keys = -1, 0, {}

    def _define(self, name: str) -> int:
        encoded = _checked_name(name)
        with self._lock:
            if self._pid != getpid():
                self._open()
            number = self._keys.get(name)
            if number is None:
                if len(self._keys) >= KEYS_MAX:
                    raise UserErrorException(f"A process can log {KEYS_MAX} names of metrics at most.")
                number = len(self._keys)
                payload = _KEY(_KEY_KIND, number) + encoded
                if self._write(_HEADER(len(payload), crc32(payload)) + payload):
                    self._keys[name] = number
        return number

    def _open(self) -> None:
        self._keys = {}
        self.writer = os.urandom(8).hex()
        self.sequence = 0
        path = os.path.join(self._folder, self.writer + ".spool")
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.failure = str(error)
            self._file = -1
            return
        self._pid = getpid()
        self._write(_MAGIC)

    def _write(self, record: bytes) -> bool:
        """One write; a short one (the disk is full) is taken back, so that the file never holds half a record."""
        try:
            written = write(self._file, record)
        except OSError as error:
            self.failure = str(error)
            return False
        if written != len(record):
            self.failure = "No space left on device"
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            return False
        return True


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
