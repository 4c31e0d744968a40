"""Metrics at rest: a replay counts once, gaps and overlaps are sent back, summaries follow."""

import math
import uuid
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.db import metrics
from runyard.db.engine import Database
from runyard.errors import UserErrorException
from runyard.protocol.metrics import KIND_TEXT, NO_STEP, Batch, Columns, decode_batch, encode_batch, iterate


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "runyard.db")
    yield found
    found.close()


def _columns(first: int, values: list[float], key: str = "loss", writer: str = "w") -> Columns:
    count = len(values)
    return Columns(key, writer, first, array("q", [NO_STEP] * count), array("q", range(count)), array("d", values))


def _batch(first: int, last: int, writer: str = "w") -> Batch:
    return Batch(writer, 1, first, last, (_columns(first, [float(i) for i in range(first, last + 1)], writer=writer),))


def _add(database: Database, batch: Batch, run_id: str = "run") -> int:
    return database.write_bulk(lambda c: metrics.add_batch(c, run_id, "ws", batch, 1))


def _values(database: Database, name: str = "loss", run_id: str = "run") -> list[float]:
    with database.read() as connection:
        return [v for one in metrics.read_metrics(connection, run_id, name) for _, _, v in iterate(one)]


def test_replay_counts_once(database: Database) -> None:
    for _ in range(3):
        assert _add(database, _batch(1, 10)) == 10
    assert _values(database) == [float(i) for i in range(1, 11)]
    with database.read() as connection:
        (summary,) = metrics.list_summaries(connection, "run")
    assert (summary.count, summary.last, summary.minimum, summary.maximum) == (10, 10.0, 1.0, 10.0)


def test_overlap_and_gap_are_answered_with_the_mark_and_keep_nothing(database: Database) -> None:
    _add(database, _batch(1, 10))
    assert _add(database, _batch(6, 15)) == 10
    assert _add(database, _batch(12, 15)) == 10
    assert _values(database) == [float(i) for i in range(1, 11)]
    assert _add(database, _batch(11, 15)) == 15
    assert _values(database) == [float(i) for i in range(1, 16)]


def test_writers_and_runs_have_marks_of_their_own(database: Database) -> None:
    assert _add(database, _batch(1, 3, "a")) == 3
    assert _add(database, _batch(1, 5, "b")) == 5
    assert _add(database, _batch(1, 2, "a"), "other") == 2
    assert len(_values(database)) == 8
    assert len(_values(database, run_id="other")) == 2


def test_values_that_are_not_numbers_leave_the_summary_usable(database: Database) -> None:
    nan = Batch("w", 1, 1, 3, (_columns(1, [math.nan, 2.0, math.nan]),))
    _add(database, nan)
    _add(database, Batch("w", 1, 4, 4, (_columns(4, [math.inf]),)))
    with database.read() as connection:
        (summary,) = metrics.list_summaries(connection, "run")
    assert (summary.count, summary.last, summary.minimum, summary.maximum) == (4, math.inf, 2.0, math.inf)
    assert [math.isnan(value) for value in _values(database)] == [True, False, True, False]


def test_texts_are_kept_beside_numbers_of_the_same_name(database: Database) -> None:
    text = Columns("loss", "w", 2, array("q", [NO_STEP]), array("q", [1]), array("d"), ('"late"',), KIND_TEXT)
    _add(database, Batch("w", 1, 1, 2, (_columns(1, [0.5]), text)))
    assert _values(database) == [0.5, "late"]


def test_too_many_names_are_refused_whole(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "NAMES_MAX", 3)
    many = tuple(_columns(i + 1, [1.0], key=f"m{i}") for i in range(4))
    with pytest.raises(UserErrorException, match="at most 3 names"):
        _add(database, Batch("w", 1, 1, 4, many))
    assert _values(database, "m0") == []
    assert _add(database, Batch("w", 1, 1, 3, many[:3])) == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=8))
def test_whatever_order_batches_come_in_each_value_is_there_once(
    database: Database, batches: list[tuple[int, int]]
) -> None:
    run_id = str(uuid.uuid4())
    for first, count in batches:
        mark = _add(database, _batch(first, first + count - 1), run_id)
    assert _values(database, run_id=run_id) == [float(i) for i in range(1, mark + 1)]


_GOOD = encode_batch(_batch(1, 5))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_batch_is_a_clear_error_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(_GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut]), bytes(body) + b"x"):
        try:
            decode_batch(damaged)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "head",
    [
        b"null", b"[]", b"1", b'"x"', b"{}", b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":null}',
        b'{"writer":"w","attempt":1e999,"first":1,"last":1,"columns":[]}', b"[" * 100_000,
        b'{"writer":"w","attempt":1,"first":1,"last":' + b"9" * 30 + b',"columns":[]}',
        b'{"writer":"\\ud800","attempt":1,"first":1,"last":1,"columns":[]}',
        b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":[["\\ud800",1,1,0]]}',
        b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":[["a",1,1]]}',
        b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":[["a",1,99999999999999999999,0]]}',
        b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":[["a",1,1,2]]}' + bytes(16) + b"\xff\xff\xff\xff",
        b'{"writer":"w","attempt":1,"first":1,"last":1,"columns":[["a",1,1,2]]}' + bytes(16) + b"\x02\0\0\0\xff\xff",
    ],
    ids=lambda one: repr(one)[:50],
)  # fmt: skip
def test_hostile_head_is_a_clear_error(head: bytes, database: Database) -> None:
    length = head.index(b"}") + 1 if b"}" in head else len(head)
    body = b"RYCOLS1\n" + length.to_bytes(4, "little") + head
    with pytest.raises((ValueError, UserErrorException)):
        _add(database, decode_batch(body))
