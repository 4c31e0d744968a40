"""The database: readers on a pool, one writer thread with group commit. Every difference between engines is here.

A write is a function of a connection that returns plain values. Writes queued together are committed together, each in
a savepoint of its own, and acknowledged after the commit. The status lane goes first; a bulk transaction is capped, so
that a flood of metrics holds no status change up for longer than that.
"""

import asyncio
import re
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Deque, Iterator, List, Tuple, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateIndex, CreateTable

from runyard.db import tables
from runyard.db.migrations import migrate
from runyard.errors import ServiceException, StorageFullError, VersionMismatchError

T = TypeVar("T")
Operation = Callable[[Connection], T]

#: The tables of a new database.
SCHEMA_FILE = Path(__file__).with_name("schema.sql")
#: How long one bulk transaction may take before it commits and lets the status lane through.
BULK_TRANSACTION_S = 0.005
#: Most writes in one commit.
GROUP_MAX = 256
#: Most writes that may wait; more are refused rather than kept in memory.
QUEUE_MAX = 20_000
#: How long a reader or the writer waits for SQLite's own locks.
BUSY_TIMEOUT_MS = 30_000


class Database:
    """One database; ``close`` ends its writer after what is queued."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(
            "sqlite:///" + str(path), connect_args={"check_same_thread": False}, pool_size=8, max_overflow=32
        )
        event.listen(self._engine, "connect", _prepare_connection)
        self._create_tables()
        self._writer = _Writer(self._engine.connect)
        self._writer.start()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with: one consistent view, never blocked by the writer."""
        with self._engine.connect() as connection:
            _control(connection, "BEGIN")
            yield connection

    def write(self, operation: Operation[T]) -> T:
        """Carry out ``operation`` in the status lane; returns once it is committed and durable."""
        return self._writer.put(operation, is_bulk=False).result()

    async def write_soon(self, operation: Operation[T]) -> T:
        """As ``write``, for an event loop: holds no thread until it is committed and durable."""
        return await asyncio.wrap_future(self._writer.put(operation, is_bulk=False))

    def write_bulk(self, operation: Operation[T]) -> T:
        """Carry out ``operation`` in the bulk lane; returns once it is committed and durable."""
        return self._writer.put(operation, is_bulk=True).result()

    def close(self) -> None:
        """Commit what is queued, end the writer and close all connections."""
        self._writer.stop()
        self._engine.dispose()

    def _create_tables(self) -> None:
        with self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            if driver.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (tables.schema.name,)).fetchone():
                (found,) = driver.execute(f"SELECT number FROM {tables.schema.name}").fetchone()
                _check_schema(found)
                if found != tables.SCHEMA:
                    migrate(driver, found)
                return
            driver.executescript(f"BEGIN; {SCHEMA_FILE.read_text('utf-8')} COMMIT;")


def schema_text() -> str:
    """What makes the tables on SQLite; kept in ``schema.sql``, since to compile it takes 30 ms of a first start."""
    dialect = sqlite.dialect()
    statements: List[str] = []
    for table in tables.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements.extend(str(CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes)
    statements.append(f"INSERT INTO {tables.schema.name} (number) VALUES ({tables.SCHEMA})")
    return "".join(re.sub(r"[ \t]+$", "", one, flags=re.MULTILINE) + ";\n\n" for one in statements)


def _check_schema(found: int) -> None:
    if not 1 <= found <= tables.SCHEMA:
        raise VersionMismatchError(
            f"The database has schema {found} and this Runyard knows schema {tables.SCHEMA}; "
            "start the version that wrote it."
        )


def _prepare_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA cache_size=-8000")


def _control(connection: Connection, command: str) -> None:
    """A command that moves a transaction, straight to the driver: through SQLAlchemy it costs more than a query.

    ``sqlite3`` begins no transaction by itself here (``isolation_level`` is None); it commits and rolls back one that
    it finds. A listener for SQLAlchemy's own "begin" would make each statement of every connection slower.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.execute(command)


class _Writer(threading.Thread):
    def __init__(self, connect: Callable[[], Connection]) -> None:
        super().__init__(name="db-writer", daemon=True)
        self._connect = connect
        self._lanes: Tuple[Deque[_Write], Deque[_Write]] = (deque(), deque())
        self._changed = threading.Condition()
        self._is_stopping = False

    def put(self, operation: Operation[T], is_bulk: bool) -> "Future[T]":
        future: Future[T] = Future()
        with self._changed:
            if self._is_stopping:
                raise ServiceException("The server is stopping; try again in a moment.")
            lane = self._lanes[is_bulk]
            if len(lane) >= QUEUE_MAX:
                raise ServiceException(f"The server has {len(lane)} writes waiting; try again in a moment.")
            lane.append((operation, future))
            self._changed.notify()
        return future

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self.join()

    def run(self) -> None:
        with self._connect() as connection:
            while self._wait():
                status_lane, bulk_lane = self._lanes
                if status_lane:
                    self._commit_group(connection, status_lane, float("inf"))
                else:
                    self._commit_group(connection, bulk_lane, BULK_TRANSACTION_S)

    def _wait(self) -> bool:
        with self._changed:
            while not any(self._lanes):
                if self._is_stopping:
                    return False
                self._changed.wait()
        return True

    def _commit_group(self, connection: Connection, lane: "Deque[_Write]", limit_s: float) -> None:
        """Carry out writes of one lane in one transaction, then answer all of them."""
        taken: List[Future[Any]] = []
        outcomes: List[Any] = []
        ends_at = time.monotonic() + limit_s
        try:
            with connection.begin():
                _control(connection, "BEGIN")
                while lane and len(taken) < GROUP_MAX and (not taken or time.monotonic() < ends_at):
                    operation, future = lane.popleft()
                    # From here on nobody can call it off; a request that was ended may have.
                    if not future.set_running_or_notify_cancel():
                        continue
                    # Before it is tried: whoever waits for it gets an answer even where the attempt ends the group.
                    taken.append(future)
                    outcomes.append(_attempt(connection, operation))
        except Exception as error:  # noqa: BLE001 - every writer that waits gets its answer
            failure = _translate(error)
            for future in taken:
                future.set_exception(failure)
            return
        for future, outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, _Failure):
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome)


_Write = Tuple[Operation[Any], "Future[Any]"]


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _attempt(connection: Connection, operation: Operation[Any]) -> Any:
    """The operation's value, or a _Failure after its savepoint is rolled back; a full disk ends the transaction."""
    _control(connection, "SAVEPOINT operation")
    try:
        value = operation(connection)
        _control(connection, "RELEASE operation")
        return value
    except Exception as error:
        if _is_disk_failure(error):
            raise
        _control(connection, "ROLLBACK TO operation")
        return _Failure(_translate(error))


#: SQLite's primary codes after which a transaction cannot go on.
_DISK_FAILURES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY)


def _is_disk_failure(error: Exception) -> bool:
    """Did the disk or the file system fail, which ends the whole transaction? A wrong statement does not."""
    code = getattr(error.orig, "sqlite_errorcode", 0) if isinstance(error, OperationalError) else 0
    return code & 0xFF in _DISK_FAILURES


def _translate(error: Exception) -> Exception:
    text = str(error.orig) if isinstance(error, OperationalError) else ""
    if "full" in text or "disk I/O" in text:
        return StorageFullError("The server's disk is full, so the change was not kept; free some space and try again.")
    return error
