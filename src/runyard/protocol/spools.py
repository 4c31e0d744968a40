"""Reading a spool: from the records that one writer appended to columns. The format is in protocol/metrics.py. Pure."""

import zlib
from array import array
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from runyard.protocol.metrics import (
    HEADER,
    KEY,
    KIND_INTEGER,
    KIND_KEY,
    KIND_SCALAR,
    KIND_TEXT,
    MAX_TEXT_BYTES,
    SCALAR,
    SCALAR_RECORD_BYTES,
    SPOOL_MAGIC,
    TEXT,
    Columns,
    little_endian,
)

#: Scalars that follow one another are read together from this many on, and looked for again after as many records.
BLOCK_RECORDS = 64


@dataclass
class SpoolState:
    """How far a spool has been read: grows with ``read_spool``."""

    offset: int = 0
    sequence: int = 0
    keys: Optional[Dict[int, str]] = None
    #: True once a record failed its check; nothing after it is read.
    is_torn: bool = False


def read_spool(data: bytes, state: SpoolState, writer: str) -> List[Columns]:
    """The columns of the complete records in ``data``, which starts at ``state.offset`` of the file.

    Advances ``state``; an incomplete record at the end stays for the next call. A record with a wrong CRC sets
    ``is_torn`` and ends the reading.
    """
    position = 0
    if state.keys is None:
        state.keys = {}
    if state.offset == 0:
        if len(data) < len(SPOOL_MAGIC):
            return []
        if not data.startswith(SPOOL_MAGIC):
            state.is_torn = True
            return []
        position = len(SPOOL_MAGIC)
    reader = _Reader(data, position, state)
    reader.read()
    state.offset += reader.position
    return [one.columns(state.keys[one.key], writer) for one in reader.gathered if one.key in state.keys]


class _Gathered:
    """Columns that grow: the values of one key as long as their kind stays the same."""

    def __init__(self, key: int, kind: int, sequence: int) -> None:
        self.key = key
        self.kind = kind
        self.first_sequence = sequence
        self.steps: array[int] = array("q")
        self.times: array[int] = array("q")
        self.values: array[float] = array("d")
        self.texts: List[str] = []

    def columns(self, key: str, writer: str) -> Columns:
        texts = tuple(self.texts)
        return Columns(key, writer, self.first_sequence, self.steps, self.times, self.values, texts, self.kind)


class _Reader:
    """Goes through the records of one piece of a spool."""

    def __init__(self, data: bytes, position: int, state: SpoolState) -> None:
        self._data = data
        self._state = state
        #: After the last complete record.
        self.position = position
        self.gathered: List[_Gathered] = []
        self._current: Dict[int, _Gathered] = {}
        self._tries_blocks = True

    def read(self) -> None:
        """Read all that is complete: scalars that follow one another in one go, others one by one."""
        is_more = True
        while is_more:
            if self._tries_blocks:
                self._read_block()
            is_more = self._read_some(BLOCK_RECORDS)

    def _read_some(self, count: int) -> bool:
        """Read ``count`` records; False if there were fewer."""
        data, end = self._data, len(self._data)
        view = memoryview(data)
        for _ in range(count):
            if self.position + HEADER.size > end:
                return False
            length, crc = HEADER.unpack_from(data, self.position)
            start = self.position + HEADER.size
            stop = start + length
            is_possible = KEY.size <= length <= MAX_TEXT_BYTES + TEXT.size
            if is_possible and stop > end:
                return False
            if not is_possible or zlib.crc32(view[start:stop]) != crc:
                self._state.is_torn = True
                return False
            self.position = stop
            self._read_payload(data[start:stop])
        return True

    def _read_payload(self, payload: bytes) -> None:
        kind, key = KEY.unpack_from(payload, 0)
        if kind == KIND_KEY and self._state.keys is not None:
            self._state.keys[key] = payload[KEY.size :].decode("utf-8", "replace")
        elif kind == KIND_TEXT and len(payload) >= TEXT.size:
            _, key, step, time_us = TEXT.unpack_from(payload, 0)
            self._state.sequence += 1
            one = self._of(key, kind, self._state.sequence)
            one.steps.append(step)
            one.times.append(time_us)
            one.texts.append(payload[TEXT.size :].decode("utf-8", "replace"))
        elif kind in (KIND_SCALAR, KIND_INTEGER) and len(payload) == SCALAR.size:
            _, key, step, time_us, value = SCALAR.unpack(payload)
            self._state.sequence += 1
            one = self._of(key, kind, self._state.sequence)
            one.steps.append(step)
            one.times.append(time_us)
            one.values.append(value)

    def _of(self, key: int, kind: int, sequence: int) -> _Gathered:
        """The columns that a value of that key and kind belongs to."""
        one = self._current.get(key)
        if one is None or one.kind != kind:
            one = self._current[key] = _Gathered(key, kind, sequence)
            self.gathered.append(one)
        return one

    def _read_block(self) -> None:
        """Read the scalars that follow one another here, if they are many."""
        count = _count_scalars(self._data, self.position)
        count -= 1 - count % 2
        if count < BLOCK_RECORDS - 1:
            return
        block = self._data[self.position : self.position + count * SCALAR_RECORD_BYTES]
        self._tries_blocks = _is_sound(block, count)
        if self._tries_blocks:
            self._take_block(block)
            self.position += len(block)
            self._state.sequence += count

    def _take_block(self, block: bytes) -> None:
        kinds, keys = block[_KIND_AT::SCALAR_RECORD_BYTES], _column("H", block, _KEY_AT)
        steps, times, values = (
            _column("q", block, _STEP_AT),
            _column("q", block, _TIME_AT),
            _column("d", block, _VALUE_AT),
        )
        first = self._state.sequence + 1
        if len(set(keys)) == 1 and len(set(kinds)) == 1:
            one = self._of(keys[0], kinds[0], first)
            one.steps.extend(steps)
            one.times.extend(times)
            one.values.extend(values)
            return
        for sequence, (key, kind, step, time_us, value) in enumerate(zip(keys, kinds, steps, times, values), first):
            one = self._of(key, kind, sequence)
            one.steps.append(step)
            one.times.append(time_us)
            one.values.append(value)


#: Where the parts of a scalar's record lie.
_KIND_AT = HEADER.size
_KEY_AT, _STEP_AT, _TIME_AT, _VALUE_AT = _KIND_AT + 1, _KIND_AT + 3, _KIND_AT + 11, _KIND_AT + 19
_LENGTH = HEADER.pack(SCALAR.size, 0)[:4]
_SCALAR_KINDS = bytes((KIND_SCALAR, KIND_INTEGER))


def _count_scalars(data: bytes, position: int) -> int:
    """How many whole scalars follow one another from there on; 0 unless the first BLOCK_RECORDS are some."""
    count = 0
    for limit in (BLOCK_RECORDS, (len(data) - position) // SCALAR_RECORD_BYTES):
        if limit < BLOCK_RECORDS:
            return 0
        count = limit
        for at, expected in [*enumerate(_LENGTH), (_KIND_AT, None)]:
            column = data[position + at : position + count * SCALAR_RECORD_BYTES : SCALAR_RECORD_BYTES]
            wanted = _SCALAR_KINDS if expected is None else bytes((expected,))
            count -= len(column.lstrip(wanted))
        if count < BLOCK_RECORDS:
            return 0
    return count


def _is_sound(block: bytes, count: int) -> bool:
    """Do all records have the CRC-32 that they name?

    CRC-32 is affine: the CRC of the XOR of an odd number of equally long messages is the XOR of their CRCs. So the
    records are XORed, half upon half, and one CRC is computed; damage to one record is found as surely as by its own.
    """
    folded, left = int.from_bytes(block, "little"), count
    while left > 1:
        half = left // 2
        shift = half * SCALAR_RECORD_BYTES * 8
        folded = (folded >> shift) ^ (folded & ((1 << shift) - 1))
        left -= half
    record = folded.to_bytes(SCALAR_RECORD_BYTES, "little")
    return zlib.crc32(record[HEADER.size :]) == int.from_bytes(record[4:8], "little")


def _column(code: str, block: bytes, at: int) -> Any:
    """One part of each record, as an array: its bytes are taken a place at a time, which no loop of ours can match."""
    found = array(code)
    size = found.itemsize
    column = bytearray(len(block) // SCALAR_RECORD_BYTES * size)
    for place in range(size):
        column[place::size] = block[at + place :: SCALAR_RECORD_BYTES]
    found.frombytes(bytes(column))
    return little_endian(found)
