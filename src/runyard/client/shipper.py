"""Carries spools and growing logs to the server: reads what is new, sends it, and advances only on its word."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Union

from runyard.client.spool import write_mark
from runyard.errors import ConflictError, NotFoundError, UserErrorException
from runyard.files.tails import is_regular
from runyard.protocol.metrics import (
    HEADER,
    MAX_TEXT_BYTES,
    SPOOL_MAGIC,
    TEXT,
    Batch,
    encode_batch,
)
from runyard.protocol.spools import SpoolState, read_spool

#: Most bytes of a spool in one request; at 35 bytes a value some 30,000 values.
SPOOL_BYTES = 1 << 20
#: The longest record of a spool.
RECORD_BYTES = HEADER.size + TEXT.size + MAX_TEXT_BYTES
#: Most bytes of a log in one request.
LOG_BYTES = 1 << 20

SendBatch = Callable[[bytes], int]
SendLog = Callable[[str, int, bytes], int]


@dataclass
class _Spool:
    state: SpoolState
    #: fsynced up to here.
    synced: int = 0


class MetricsShipper:
    """Sends the spools of a folder. ``send`` takes an encoded batch and returns the server's mark for its writer."""

    def __init__(self, folder: str, attempt: int, send: SendBatch) -> None:
        self._folder = folder
        self._attempt = attempt
        self._send = send
        self._spools: Dict[str, _Spool] = {}
        #: Writers whose spool was found damaged, with the offset up to which it was read.
        self.damaged: Dict[str, int] = {}
        #: Writers whose values the server refuses from some point on (too many names, say), and its sentence.
        self.refused: Dict[str, str] = {}

    def ship(self) -> int:
        """Send everything that is in the spools now; returns how many values the server took."""
        return sum(self._ship_one(name) for name in self._names())

    def shipped_bytes(self, writer: str) -> int:
        """How many bytes of that writer's spool the server has, or are of no use to it."""
        spool = self._spools.get(writer + ".spool")
        return 0 if spool is None else spool.state.offset

    def sync(self) -> None:
        """Hand what the spools hold to the disk."""
        for name in self._names():
            path = os.path.join(self._folder, name)
            size = os.lstat(path).st_size
            spool = self._spools.setdefault(name, _Spool(SpoolState()))
            if size > spool.synced:
                _fsync(path)
                spool.synced = size

    def _names(self) -> List[str]:
        try:
            found = sorted(name for name in os.listdir(self._folder) if name.endswith(".spool"))
        except OSError:
            return []
        return [name for name in found if is_regular(os.path.join(self._folder, name))]

    def _ship_one(self, name: str) -> int:
        writer = name[: -len(".spool")]
        spool = self._spools.setdefault(name, _Spool(SpoolState()))
        before, shipped, size = spool.state.offset, 0, SPOOL_BYTES
        path = os.path.join(self._folder, name)
        if os.lstat(path).st_size == before:
            return 0
        with open(path, "rb", opener=_open_file) as file:
            while not spool.state.is_torn:
                file.seek(spool.state.offset)
                data = file.read(size)
                ahead = _copy(spool.state)
                columns = read_spool(data, ahead, writer)
                if ahead.is_torn:
                    self.damaged[writer] = ahead.offset
                if ahead.sequence == spool.state.sequence:
                    # A record longer than what is read at once comes whole with the next, longer read.
                    if len(data) < size or (size > SPOOL_BYTES and ahead.offset == spool.state.offset):
                        spool.state = ahead
                        break
                    spool.state, size = ahead, SPOOL_BYTES + RECORD_BYTES
                    continue
                batch = Batch(writer, self._attempt, spool.state.sequence + 1, ahead.sequence, tuple(columns))
                mark = self._send_batch(batch)
                if mark is None:
                    spool.state.is_torn = True
                    break
                if mark >= ahead.sequence:
                    shipped += ahead.sequence - spool.state.sequence
                    spool.state = ahead
                else:
                    spool.state = _rewind(file.name, writer, mark)
        if spool.state.is_torn:
            # The server will never have what follows, so nobody may wait for it.
            spool.state.offset = os.lstat(path).st_size
        if spool.state.offset > before:
            with suppress(OSError):  # a job that spoils its own folder waits in vain
                write_mark(self._folder, writer, spool.state.offset)
        return shipped

    def _send_batch(self, batch: Batch) -> Optional[int]:
        """The server's mark; None where it refuses these values for good."""
        try:
            return self._send(encode_batch(batch))
        except (ConflictError, NotFoundError):
            raise
        except UserErrorException as error:
            self.refused[batch.writer] = str(error)
            return None


class LogShipper:
    """Sends growing files. ``send(name, offset, data)`` returns how many bytes the server now holds of that file."""

    def __init__(self, send: SendLog) -> None:
        self._send = send
        self._offsets: Dict[str, int] = {}

    def ship(self, name: str, path: Union[str, int]) -> int:
        """Send what is new in the file at ``path``, or open as it; returns how many bytes the server took."""
        offset = start = self._offsets.get(name, 0)
        try:
            # Asked several times a second of files that seldom grow.
            seen = os.lstat(path) if isinstance(path, str) else os.fstat(path)
            if stat.S_ISREG(seen.st_mode) and seen.st_size <= offset:
                return 0
            with open(path, "rb", opener=_open_file, closefd=isinstance(path, str)) as file:
                while True:
                    file.seek(offset)
                    data = file.read(LOG_BYTES)
                    if not data:
                        break
                    offset = self._send(name, offset, data)
                    self._offsets[name] = offset
        except FileNotFoundError:
            pass
        return offset - start


def _copy(state: SpoolState) -> SpoolState:
    return SpoolState(state.offset, state.sequence, dict(state.keys or {}), state.is_torn)


def _rewind(path: str, writer: str, mark: int) -> SpoolState:
    """The state right after the value of sequence ``mark``: read again from the start, record by record."""
    state = SpoolState()
    with open(path, "rb", opener=_open_file) as file:
        read_spool(file.read(len(SPOOL_MAGIC)), state, writer)
        while state.sequence < mark and not state.is_torn:
            file.seek(state.offset)
            head = file.read(HEADER.size)
            if len(head) < HEADER.size:
                break
            read_spool(head + file.read(HEADER.unpack(head)[0]), state, writer)
    return state


def _open_file(path: str, flags: int) -> int:
    """As ``os.open``, but never through a link, and never waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _fsync(path: str) -> None:
    handle = _open_file(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
