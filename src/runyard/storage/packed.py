"""Packs as objects of a bucket: the records of ``files/packs.py``, and behind them their index, read by its tail.

Behind the last record stand the index, JSON ``[[digest, start, bytes], ...]``, and 16 bytes: ``RYINDEX1``, the index's
length and its CRC-32, both u32 little-endian. So a pack and its index come and go as one.
"""

import io
import json
import os
import struct
import threading
import zlib
from typing import Callable, Dict, List, Optional, Tuple

from runyard.errors import IntegrityError
from runyard.files.packs import write_records
from runyard.protocol.digests import check_digest
from runyard.storage.catalog import Place

#: Largest pack, bytes; it is made in memory.
PACK_BYTES = 32 << 20
#: How much of a pack's end is read first: the index of some 600 contents.
TAIL_BYTES = 64 << 10

_FOOT = struct.Struct("<8sII")
_MAGIC = b"RYINDEX1"


def pack_key(name: str) -> str:
    """A pack's object."""
    return f"packs/{name}"


def make_pack(blobs: Dict[str, bytes]) -> Tuple[str, bytes, List[Place]]:
    """A new pack of contents by their digests: its name, its bytes, and what lies where."""
    name, file = os.urandom(12).hex() + ".pack", io.BytesIO()
    places = [Place(one.digest, name, one.offset, one.size_bytes) for one in write_records(file, blobs, name)]
    index = json.dumps([[one.digest, one.start, one.size_bytes] for one in places], separators=(",", ":")).encode()
    file.write(index)
    file.write(_FOOT.pack(_MAGIC, len(index), zlib.crc32(index)))
    return name, file.getvalue(), places


def read_index(name: str, size: int, get: Callable[[int, int], bytes]) -> List[Place]:
    """What lies where in a pack of ``size`` bytes, of which ``get`` reads (start, bytes); IntegrityError if damaged."""
    tail = get(max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
    damaged = IntegrityError(f"The pack {name} is damaged: its index cannot be read.")
    if len(tail) < _FOOT.size:
        raise damaged
    magic, length, crc = _FOOT.unpack(tail[-_FOOT.size :])
    if magic != _MAGIC or length + _FOOT.size > size:
        raise damaged
    if length + _FOOT.size > len(tail):
        tail = get(size - length - _FOOT.size, length + _FOOT.size)
    index = tail[-_FOOT.size - length : -_FOOT.size]
    if zlib.crc32(index) != crc:
        raise damaged
    return [Place(check_digest(digest), name, int(start), int(count)) for digest, start, count in json.loads(index)]


class Packer:
    """Writes packs: what several requests bring while one pack is on its way goes into the next, as one object."""

    def __init__(self, write: Callable[[Dict[str, bytes]], None]) -> None:
        self._write = write
        self._joining, self._writing = threading.Lock(), threading.Lock()
        self._open = _Batch()

    def put(self, blobs: Dict[str, bytes]) -> None:
        """Returns once these are in the bucket; raises what kept them out."""
        size = sum(map(len, blobs.values()))
        with self._joining:
            if self._open.size and self._open.size + size > PACK_BYTES:
                self._open = _Batch()
            batch = self._open
            batch.blobs.update(blobs)
            batch.size += size
        with self._writing:
            if not batch.is_over:
                with self._joining:
                    if self._open is batch:
                        self._open = _Batch()
                batch.carry_out(self._write)
        if batch.error is not None:
            raise batch.error


class _Batch:
    """Contents that become one pack."""

    def __init__(self) -> None:
        self.blobs: Dict[str, bytes] = {}
        self.size = 0
        self.is_over = False
        self.error: Optional[Exception] = None

    def carry_out(self, write: Callable[[Dict[str, bytes]], None]) -> None:
        """Write it, and keep what went wrong for all who wait."""
        try:
            write(self.blobs)
        except Exception as error:  # noqa: BLE001 - raised by everyone who put something into it
            self.error = error
        self.is_over = True
        self.blobs = {}
