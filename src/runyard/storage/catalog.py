"""What is known to lie in the bucket: a file of SQLite that is a cache, and can be made again from the bucket.

It answers ``has`` for thousands of digests without a request, and remembers uploads that are not over. One connection
for all threads, since each question takes microseconds.
"""

import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from runyard.errors import StorageFullError
from runyard.protocol.record import record

#: Most variables of one statement.
_ASK = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS contents (digest TEXT PRIMARY KEY, pack TEXT NOT NULL, start INTEGER, size INTEGER)
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contents_pack ON contents (pack) WHERE pack != '';
CREATE TABLE IF NOT EXISTS packs (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, digest TEXT, size INTEGER, chunks BLOB, key TEXT, token TEXT,
    is_direct INTEGER, changed_at REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uploads_digest ON uploads (digest, is_direct);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@record
class Place:
    """Where a content lies: in a pack from ``start`` on, or where ``pack`` is '' in an object of its own."""

    digest: str
    pack: str
    start: int
    size_bytes: int


@record
class KnownUpload:
    """An upload that is not over."""

    id: str
    digest: str
    size_bytes: int
    #: Raw SHA-256 of each chunk, one after the other.
    chunks: bytes
    #: The object that its parts become, and what the service knows the upload by.
    key: str
    token: str
    is_direct: bool

    def chunk(self, number: int) -> str:
        """Hex SHA-256 of part ``number``, from 1."""
        return self.chunks[32 * (number - 1) : 32 * number].hex()

    @property
    def count(self) -> int:
        """How many parts it has."""
        return len(self.chunks) // 32


class Catalog:
    """The cache of one bucket and prefix, in one file."""

    def __init__(self, path: Path, place: str) -> None:
        """``place``: the bucket's address; a file about another one, or that does not open, is made anew."""
        self._path = path
        self._lock = threading.RLock()
        self._connection = self._open()
        if self.fact("place") != place:
            with self._changing():
                for table in ("contents", "packs", "uploads", "facts"):
                    self._connection.execute(f"DELETE FROM {table}")
            self.set_fact("place", place)

    def find(self, digest: str) -> Optional[Place]:
        """Where the content lies; None where it is not known to."""
        rows = self._ask("SELECT digest, pack, start, size FROM contents WHERE digest = ?", (digest,))
        return Place(*rows[0]) if rows else None

    def find_all(self, digests: List[str]) -> Dict[str, Place]:
        """Where those of the digests lie that are known."""
        found: Dict[str, Place] = {}
        for first in range(0, len(digests), _ASK):
            some = digests[first : first + _ASK]
            marks = ",".join("?" * len(some))
            rows = self._ask(f"SELECT digest, pack, start, size FROM contents WHERE digest IN ({marks})", some)
            found.update((row[0], Place(*row)) for row in rows)
        return found

    def add_pack(self, name: str, size: int, places: Iterable[Place]) -> None:
        """A pack is in the bucket. What lay elsewhere before lies here now."""
        with self._changing():
            self._connection.execute("INSERT OR REPLACE INTO packs VALUES (?, ?)", (name, size))
            self._connection.executemany(
                "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)",
                [(one.digest, one.pack, one.start, one.size_bytes) for one in places],
            )

    def add_objects(self, sizes: Iterable[Tuple[str, int]]) -> None:
        """(digest, bytes) of contents that are in the bucket as objects of their own."""
        with self._changing():
            self._connection.executemany("INSERT OR REPLACE INTO contents VALUES (?, '', 0, ?)", sizes)

    def forget(self, digests: Iterable[str]) -> None:
        """Contents that the bucket turned out not to have."""
        with self._changing():
            self._connection.executemany("DELETE FROM contents WHERE digest = ?", [(one,) for one in digests])

    def forget_pack(self, name: str) -> None:
        """A pack that is not in the bucket any more, and what lay in it alone."""
        with self._changing():
            self._connection.execute("DELETE FROM contents WHERE pack = ?", (name,))
            self._connection.execute("DELETE FROM packs WHERE name = ?", (name,))

    def packs(self) -> Dict[str, int]:
        """Bytes of each known pack by its name."""
        return dict(self._ask("SELECT name, size FROM packs", ()))

    def in_pack(self, name: str) -> List[Place]:
        """What lies in a pack, by its place."""
        rows = self._ask("SELECT digest, pack, start, size FROM contents WHERE pack = ? ORDER BY start", (name,))
        return [Place(*row) for row in rows]

    def objects(self) -> Set[str]:
        """Digests of the contents that are objects of their own."""
        return {row[0] for row in self._ask("SELECT digest FROM contents WHERE pack = ''", ())}

    def add_upload(self, upload: KnownUpload, now: float) -> None:
        """An upload was begun at ``now``, seconds since 1970."""
        row = (
            upload.id, upload.digest, upload.size_bytes, upload.chunks, upload.key, upload.token, upload.is_direct, now
        )  # fmt: skip
        with self._changing():
            self._connection.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def find_upload(self, upload_id: str) -> Optional[KnownUpload]:
        """An upload that is not over."""
        return self._upload("id = ?", (upload_id,))

    def find_upload_of(self, digest: str, is_direct: bool) -> Optional[KnownUpload]:
        """An upload of that content that is not over."""
        return self._upload("digest = ? AND is_direct = ?", (digest, int(is_direct)))

    def touch_upload(self, upload_id: str, now: float) -> None:
        """Somebody goes on with it."""
        with self._changing():
            self._connection.execute("UPDATE uploads SET changed_at = ? WHERE id = ?", (now, upload_id))

    def old_uploads(self, before: float) -> List[KnownUpload]:
        """Uploads that nobody went on with since ``before``."""
        ids = [row[0] for row in self._ask("SELECT id FROM uploads WHERE changed_at < ?", (before,))]
        return [one for one in map(self.find_upload, ids) if one is not None]

    def uploads(self) -> List[Tuple[str, str]]:
        """(key, token) of each upload that is not over."""
        return list(self._ask("SELECT key, token FROM uploads", ()))

    def end_upload(self, upload_id: str) -> None:
        """It is over; one that is unknown is fine."""
        with self._changing():
            self._connection.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))

    def fact(self, name: str) -> str:
        """What was noted under that name; '' for nothing."""
        rows = self._ask("SELECT value FROM facts WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def set_fact(self, name: str, value: str) -> None:
        """Note something."""
        with self._changing():
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _upload(self, condition: str, values: Tuple[Any, ...]) -> Optional[KnownUpload]:
        rows = self._ask(
            f"SELECT id, digest, size, chunks, key, token, is_direct FROM uploads WHERE {condition}", values
        )
        return KnownUpload(*rows[0]) if rows else None

    def _ask(self, query: str, values: Iterable[Any]) -> List[Tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction; StorageFullError where the disk is full."""
        with self._lock:
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield
            except sqlite3.OperationalError as error:
                if "full" in str(error) or "disk I/O" in str(error):
                    raise StorageFullError(f"The disk of {self._path.parent} is full; free some space on it.") from None
                raise

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(str(self._path), timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_TABLES)
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection
