"""Metric values: the spool's records, the binary columns that travel and are stored, and their codecs. Pure.

A *spool* is a file that one writer (one opened file of one process) appends to. It begins with ``SPOOL_MAGIC`` and
holds records: a header (payload length, CRC-32 of the payload) and the payload, whose first byte is its kind. A record
that is torn or does not match its CRC ends the spool.

    kind 0  key      u16 number, then the name in UTF-8: defines the number for this writer
    kind 1  scalar   u16 key, i64 step (NO_STEP: none), i64 time (UTC microseconds), f64 value
    kind 2  text     as scalar but UTF-8 JSON for the value: integers beyond 2**53, lists, rows, tables, strings
    kind 3  integer  as scalar, the value a whole number of at most 2**53

*Columns* are one writer's records of one key, side by side: ``encode_columns`` and ``decode_columns``. All numbers are
little-endian.
"""

import json
import struct
import sys
from array import array
from typing import Any, Dict, Iterator, List, Optional, Tuple

from runyard.protocol.record import record

SPOOL_MAGIC = b"RYSPOOL1"
COLUMNS_MAGIC = b"RYCOLS1\n"
NO_STEP = -(1 << 63)
#: How names begin that a runner records of its node, and no script: then the node's number, a slash, and what it is.
USAGE_PREFIX = "runyard.usage/"

KIND_KEY, KIND_SCALAR, KIND_TEXT, KIND_INTEGER = 0, 1, 2, 3

HEADER = struct.Struct("<II")
SCALAR = struct.Struct("<BHqqd")
KEY = struct.Struct("<BH")
TEXT = struct.Struct("<BHqq")
#: Header and payload of a scalar in one: what ``run.log`` writes.
SCALAR_RECORD_BYTES = HEADER.size + SCALAR.size

#: Longest name of a metric, in UTF-8 bytes.
MAX_KEY_BYTES = 1_024
#: Longest value of kind text.
MAX_TEXT_BYTES = 1 << 20
#: Most keys that one writer may define.
MAX_KEYS = 65_535
#: Largest sequence number: what a database's integers hold.
MAX_SEQUENCE = (1 << 63) - 1
#: Largest body of columns.
MAX_COLUMNS_BYTES = 16 << 20


@record
class Columns:
    """Values of one key by one writer; ``steps``, ``times`` and ``values`` have equal lengths.

    The arrays' type codes are q, q and d; ``texts`` replaces ``values`` where ``kind`` is KIND_TEXT.
    """

    key: str
    writer: str
    #: Sequence number, within the writer, of the first value; they need not be consecutive across keys.
    first_sequence: int
    steps: "array[int]"
    times: "array[int]"
    values: "array[float]"
    texts: Tuple[str, ...] = ()
    #: KIND_SCALAR, KIND_INTEGER or KIND_TEXT: what the values are, all alike.
    kind: int = KIND_SCALAR

    def __len__(self) -> int:
        return len(self.times)


@record
class Batch:
    """What a runner sends at once: one writer's columns, covering sequences ``first`` to ``last``, inclusive."""

    writer: str
    attempt: int
    first: int
    last: int
    columns: Tuple[Columns, ...]


@record
class MetricsReply:
    """The server's high-water mark for that writer: everything up to it is stored."""

    sequence: int


@record
class MetricSummary:
    """The latest and extreme values of one metric of a run."""

    name: str
    count: int
    last: float
    minimum: float
    maximum: float


def encode_batch(batch: Batch) -> bytes:
    """The body of ``add_metrics``: a JSON head with the lengths, then the columns' bytes."""
    head = {
        "writer": batch.writer,
        "attempt": batch.attempt,
        "first": batch.first,
        "last": batch.last,
        "columns": [[c.key, c.first_sequence, len(c), c.kind] for c in batch.columns],
    }
    head_bytes = json.dumps(head, separators=(",", ":")).encode()
    parts = [COLUMNS_MAGIC, struct.pack("<I", len(head_bytes)), head_bytes]
    for columns in batch.columns:
        parts.append(encode_columns(columns))
    return b"".join(parts)


def decode_batch(body: bytes) -> Batch:
    """The batch in a body of ``add_metrics``; ValueError says what is wrong with it."""
    if not body.startswith(COLUMNS_MAGIC) or len(body) < len(COLUMNS_MAGIC) + 4:
        raise ValueError("the body does not start as metric columns do")
    start = len(COLUMNS_MAGIC) + 4
    (head_length,) = struct.unpack_from("<I", body, start - 4)
    try:
        head = json.loads(body[start : start + head_length])
        writer, attempt = str(head["writer"]), int(head["attempt"])
        first, last = int(head["first"]), int(head["last"])
        rows = [(str(k), int(s), int(n), int(t)) for k, s, n, t in head["columns"]]
        "".join([writer] + [row[0] for row in rows]).encode("utf-8")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the head of the columns is damaged: {error}") from None
    in_range = 1 <= first <= last <= MAX_SEQUENCE and all(first <= row[1] <= last for row in rows)
    if not in_range or attempt < 1 or not 0 < len(writer) <= 64:
        raise ValueError("the head of the columns has numbers out of range")
    position, found = start + head_length, []
    for key, sequence, count, kind in rows:
        columns, position = decode_columns(body, position, key, writer, sequence, count, kind)
        found.append(columns)
    if position != len(body):
        raise ValueError(f"{len(body) - position} bytes are left after the columns")
    return Batch(writer, attempt, first, last, tuple(found))


def encode_read(found: Dict[str, List[Columns]]) -> bytes:
    """The reply of ``get_metrics``: a JSON head, then the columns of each run in their stored order."""
    rows = [
        [run_id, c.key, c.writer, c.first_sequence, len(c), c.kind] for run_id, list_ in found.items() for c in list_
    ]
    head = json.dumps({"runs": list(found), "columns": rows}, separators=(",", ":")).encode()
    bodies = [encode_columns(columns) for list_ in found.values() for columns in list_]
    return b"".join([COLUMNS_MAGIC, struct.pack("<I", len(head)), head] + bodies)


def rank_of(writer: str) -> Optional[int]:
    """Which of several processes that writer is; None for a run's only one. Its id then begins with ``r<rank>-``."""
    rank, dash, _ = writer[1:].partition("-")
    return int(rank) if dash and writer[0] == "r" and rank.isdigit() else None


def decode_read(body: bytes) -> Dict[str, List[Columns]]:
    """The columns of each run in a reply of ``get_metrics``; ValueError where it is damaged."""
    start = len(COLUMNS_MAGIC) + 4
    (length,) = struct.unpack_from("<I", body, start - 4)
    head = json.loads(body[start : start + length])
    found: Dict[str, List[Columns]] = {str(run_id): [] for run_id in head["runs"]}
    position = start + length
    for run_id, key, writer, sequence, count, kind in head["columns"]:
        columns, position = decode_columns(body, position, key, writer, sequence, count, kind)
        found[run_id].append(columns)
    return found


def encode_columns(columns: Columns) -> bytes:
    """Steps, times and values as little-endian arrays; JSON texts are preceded by their length in bytes (u32)."""
    if columns.kind == KIND_TEXT:
        text = json.dumps(columns.texts).encode()
        return _bytes(columns.steps) + _bytes(columns.times) + struct.pack("<I", len(text)) + text
    return _bytes(columns.steps) + _bytes(columns.times) + _bytes(columns.values)


def decode_columns(
    data: bytes, position: int, key: str, writer: str, sequence: int, count: int, kind: int
) -> Tuple[Columns, int]:
    """Columns at ``position`` of ``data``, and the position after them."""
    if not 0 < count <= MAX_COLUMNS_BYTES // 16 or not 0 < len(key.encode("utf-8", "replace")) <= MAX_KEY_BYTES:
        raise ValueError("a column's name or length is out of range")
    steps, position = _array("q", data, position, count)
    times, position = _array("q", data, position, count)
    if kind in (KIND_SCALAR, KIND_INTEGER):
        values, position = _array("d", data, position, count)
        return Columns(key, writer, sequence, steps, times, values, (), kind), position
    if kind != KIND_TEXT:
        raise ValueError(f"a column is of the unknown kind {kind}")
    if position + 4 > len(data):
        raise ValueError("the columns are cut short")
    (length,) = struct.unpack_from("<I", data, position)
    try:
        texts = json.loads(data[position + 4 : position + 4 + length])
    except RecursionError:
        raise ValueError("a column of texts nests too deep") from None
    if not isinstance(texts, list) or len(texts) != count or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"a column of texts does not have {count} of them")
    return Columns(key, writer, sequence, steps, times, array("d"), tuple(texts), kind), position + 4 + length


def iterate(columns: Columns) -> Iterator[Tuple[Optional[int], int, Any]]:
    """(step or None, time in UTC microseconds, value) of each value, in order."""
    values: Any = columns.values
    if columns.kind == KIND_TEXT:
        values = [json.loads(text) for text in columns.texts]
    elif columns.kind == KIND_INTEGER:
        values = [int(value) for value in columns.values]
    for step, time_us, value in zip(columns.steps, columns.times, values):
        yield (None if step == NO_STEP else step), time_us, value


def _array(code: str, data: bytes, position: int, count: int) -> Tuple[Any, int]:
    found = array(code)
    stop = position + count * found.itemsize
    if stop > len(data):
        raise ValueError("the columns are cut short")
    found.frombytes(data[position:stop])
    return little_endian(found), stop


def little_endian(column: Any) -> Any:
    """An array whose bytes were little-endian, or are to be, as this machine has it; on most, itself."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column


def _bytes(column: Any) -> bytes:
    return bytes(little_endian(column).tobytes())
