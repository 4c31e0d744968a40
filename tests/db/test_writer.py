"""The one writer: group commit, a savepoint an operation, two lanes, and a full disk."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, text

from runyard.db.engine import BULK_TRANSACTION_S, GROUP_MAX, Database
from runyard.db.tables import run_events
from runyard.errors import ConflictError, ServiceException, StorageFullError


class Gate:
    """Holds the writer inside an operation until it is opened."""

    def __init__(self) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.reached.set()
        assert self._opened.wait(30)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "runyard.db")
    yield found
    found.close()


def _add(connection: Connection, who: str) -> str:
    connection.execute(
        insert(run_events).values(run_id=who, at=1, status="x", workspace="ws", created_by="test", created_at=1)
    )
    return who


def _rows(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(run_events.c.run_id).order_by(run_events.c.seq)).scalars())


def _put(database: Database, operation: Any, is_bulk: bool = False) -> "Future[Any]":
    return database._writer.put(operation, is_bulk)


def _count_commits(database: Database) -> list[int]:
    commits: list[int] = []
    event.listen(database._engine, "commit", lambda _connection: commits.append(1))
    return commits


def test_write_is_durable_and_returns_its_value(database: Database, tmp_path: Path) -> None:
    assert database.write(lambda c: _add(c, "a")) == "a"
    assert database.write_bulk(lambda c: _add(c, "b")) == "b"
    other = sqlite3.connect(tmp_path / "runyard.db")
    assert other.execute("select count(*) from run_events").fetchone() == (2,)
    assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    other.close()


def test_writes_that_wait_together_are_committed_together(database: Database) -> None:
    gate = Gate()
    _put(database, gate)
    assert gate.reached.wait(10)
    commits = _count_commits(database)
    waiting = [_put(database, lambda c, i=i: _add(c, str(i))) for i in range(100)]
    gate.open()
    assert [one.result(10) for one in waiting] == [str(i) for i in range(100)]
    assert _rows(database) == [str(i) for i in range(100)]
    assert len(commits) == 1, "the one that waited at the gate took all the others along"


def test_one_commit_takes_so_many_writes_and_no_more(database: Database) -> None:
    gate = Gate()
    _put(database, gate)
    assert gate.reached.wait(10)
    commits = _count_commits(database)
    waiting = [_put(database, lambda c, i=i: _add(c, str(i))) for i in range(GROUP_MAX + 50)]
    gate.open()
    for one in waiting:
        one.result(10)
    assert len(commits) == 2


@pytest.mark.parametrize(
    "failure",
    [
        lambda c: (_add(c, "half"), c.execute(text("select * from no_such_table"))),
        lambda c: (_add(c, "half"), c.execute(insert(run_events).values(run_id="x"))),
        lambda c: (_add(c, "half"), c.execute(text("insert into schema_number values (1), (1)"))),
        lambda c: (_add(c, "half"), {}["missing"]),
    ],
    ids=["wrong SQL", "NOT NULL", "UNIQUE", "a bug"],
)
def test_failing_operation_is_undone_alone(database: Database, failure: Any) -> None:
    gate = Gate()
    _put(database, gate)
    assert gate.reached.wait(10)
    before, failing, after = (
        _put(database, lambda c: _add(c, "before")), _put(database, failure), _put(database, lambda c: _add(c, "after"))
    )  # fmt: skip
    gate.open()
    assert before.result(10) == "before"
    assert after.result(10) == "after"
    assert isinstance(failing.exception(10), Exception)
    assert _rows(database) == ["before", "after"]


def test_refusal_reaches_its_caller_as_it_was_raised(database: Database) -> None:
    def refuse(_connection: Connection) -> None:
        raise ConflictError("Not now.")

    with pytest.raises(ConflictError, match=r"^Not now\.$"):
        database.write(refuse)


def test_flood_of_bulk_writes_lets_a_status_change_through(database: Database) -> None:
    gate, order = Gate(), list[str]()

    def slow(_connection: Connection) -> None:
        order.append("bulk")
        ends_at = time.monotonic() + BULK_TRANSACTION_S * 1.2
        while time.monotonic() < ends_at:
            pass

    _put(database, gate, is_bulk=True)
    assert gate.reached.wait(10)
    flood = [_put(database, slow, is_bulk=True) for _ in range(20)]
    status = _put(database, lambda _c: order.append("status"))
    gate.open()
    status.result(10)
    for one in flood:
        one.result(10)
    assert order.index("status") <= 1, "at most the transaction that ran already comes before"


def test_quick_bulk_writes_share_a_transaction(database: Database) -> None:
    gate = Gate()
    _put(database, gate)
    assert gate.reached.wait(10)
    commits = _count_commits(database)
    for one in [_put(database, lambda _c: None, is_bulk=True) for _ in range(200)] + [gate.open()][:0]:
        assert not one.done()
    gate.open()
    database.write_bulk(lambda c: _add(c, "last"))
    assert len(commits) < 50


def test_reader_sees_one_state_while_the_writer_works(database: Database) -> None:
    database.write(lambda c: _add(c, "a"))
    with database.read() as connection:
        count = select(func.count()).select_from(run_events)
        assert connection.execute(count).scalar() == 1
        database.write(lambda c: _add(c, "b"))
        assert connection.execute(count).scalar() == 1
    assert _rows(database) == ["a", "b"]


def test_close_commits_what_was_queued_and_takes_no_more(tmp_path: Path) -> None:
    database = Database(tmp_path / "runyard.db")
    waiting = [_put(database, lambda c, i=i: _add(c, str(i))) for i in range(50)]
    database.close()
    assert [one.result(0) for one in waiting] == [str(i) for i in range(50)]
    with pytest.raises(ServiceException, match="stopping"):
        database.write(lambda c: _add(c, "late"))


def test_database_that_is_full_in_the_middle_of_a_write_answers_everyone_who_waits(database: Database) -> None:
    """A limit on pages gives SQLite's error of a full disk inside a statement rather than at the commit."""

    def overflow(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        try:
            for number in range(1000):
                _add(connection, f"{number} " * 1000)
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

    gate = Gate()
    _put(database, gate)
    assert gate.reached.wait(10)
    before, full = _put(database, lambda c: _add(c, "before")), _put(database, overflow)
    after = _put(database, lambda c: _add(c, "after"))
    gate.open()
    for one in (before, full):
        with pytest.raises(StorageFullError, match="disk is full"):
            one.result(10)
    assert after.result(10) == "after"
    assert _rows(database) == ["after"]


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="a disk of its own needs a mount namespace",
)
def test_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived"


def test_write_that_nobody_awaits_any_more_is_left_out_and_holds_nothing_up(database: Database) -> None:
    gate = Gate()
    first = _put(database, gate)
    assert gate.reached.wait(30)

    async def give_up() -> None:
        soon = asyncio.ensure_future(database.write_soon(lambda c: _add(c, "given up")))
        await asyncio.sleep(0)
        soon.cancel()
        await asyncio.sleep(0)

    asyncio.run(give_up())
    gate.open()
    assert database.write(lambda c: _add(c, "next")) == "next"
    assert asyncio.run(database.write_soon(lambda c: _add(c, "last"))) == "last"
    first.result(30)
    assert _rows(database) == ["next", "last"]
