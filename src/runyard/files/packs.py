"""Packs: small blobs side by side in one file, so that thousands cost one fsync; and the index that finds them.

A pack is ``RYPACK1\\n`` and records: magic, digest length (u16), content length (u32), CRC-32 of digest and content
(u32), the digest in ASCII, the content; all numbers little-endian. The packs are the truth; ``index.db`` can be made
again from them, so its commits need not be durable.
"""

import os
import sqlite3
import struct
import threading
import zlib
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from runyard.protocol.digests import check_digest
from runyard.protocol.record import record

PACK_MAGIC = b"RYPACK1\n"
_RECORD_MAGIC = b"RB"
_RECORD = struct.Struct("<2sHII")

#: Most variables of one statement of SQLite.
_ASK = 500


@record
class PackEntry:
    """Where a small blob lies."""

    digest: str
    pack: str
    offset: int
    size_bytes: int


def write_pack(path: Path, blobs: Dict[str, bytes], pack: str) -> List[PackEntry]:
    """Write a pack of ``blobs`` (digest -> content) to ``path`` and hand it to the disk; returns what lies where."""
    with open(str(path), "xb") as file:
        entries = write_records(file, blobs, pack)
        file.flush()
        os.fsync(file.fileno())
    return entries


def write_records(file: BinaryIO, blobs: Dict[str, bytes], pack: str) -> List[PackEntry]:
    """Write a pack from its first byte on; returns what lies where."""
    entries = []
    file.write(PACK_MAGIC)
    for digest, content in blobs.items():
        name = digest.encode("ascii")
        crc = zlib.crc32(content, zlib.crc32(name))
        file.write(_RECORD.pack(_RECORD_MAGIC, len(name), len(content), crc))
        file.write(name)
        entries.append(PackEntry(digest, pack, file.tell(), len(content)))
        file.write(content)
    return entries


def scan_pack(path: Path) -> Iterator[PackEntry]:
    """The sound records of a pack; the first that is torn or damaged ends it."""
    with open(str(path), "rb") as file:
        if file.read(len(PACK_MAGIC)) != PACK_MAGIC:
            return
        while True:
            head = file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                return
            magic, name_length, length, crc = _RECORD.unpack(head)
            name = file.read(name_length)
            offset = file.tell()
            content = file.read(length)
            if magic != _RECORD_MAGIC or len(content) != length or zlib.crc32(content, zlib.crc32(name)) != crc:
                return
            yield PackEntry(check_digest(name.decode("ascii", "replace")), path.name, offset, length)


class PackIndex:
    """Finds small blobs, for every process that shares the store."""

    def __init__(self, root: Path, is_first: bool) -> None:
        """``is_first``: make the tables if they are not there; others find them."""
        self._root = root
        self._is_first = is_first
        self._local = threading.local()
        self._packs = root / "packs"

    def add(self, entries: Iterable[PackEntry], pack: str) -> None:
        """Make a pack that is in place findable."""
        rows = [(one.digest, one.pack, one.offset, one.size_bytes) for one in entries]
        connection = self._connection()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?)", rows)
            connection.execute("INSERT OR IGNORE INTO packs VALUES (?)", (pack,))

    def find(self, digest: str) -> Optional[PackEntry]:
        """Where the blob lies; None if no pack has it."""
        row = self._connection().execute("SELECT * FROM blobs WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else PackEntry(*row)

    def find_all(self, digests: List[str]) -> Set[str]:
        """Those of the digests that a pack has."""
        found: Set[str] = set()
        for start in range(0, len(digests), _ASK):
            some = digests[start : start + _ASK]
            marks = ",".join("?" * len(some))
            query = f"SELECT digest FROM blobs WHERE digest IN ({marks})"
            found.update(row[0] for row in self._connection().execute(query, some))
        return found

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; one of a forked parent is never used."""
        kept: Optional[Tuple[int, sqlite3.Connection]] = getattr(self._local, "kept", None)
        if kept is not None and kept[0] == os.getpid():
            return kept[1]
        connection = sqlite3.connect(str(self._root / "index.db"), timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous=NORMAL")
        if self._is_first:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, pack TEXT, offset INTEGER, size INTEGER)"
                " WITHOUT ROWID"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS packs (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._local.kept = (os.getpid(), connection)
        return connection

    def adopt_unknown_packs(self) -> None:
        """Index packs whose writer died before it did; an index that does not open is made anew."""
        try:
            known = {row[0] for row in self._connection().execute("SELECT name FROM packs")}
        except sqlite3.DatabaseError:
            self._local.kept = None
            for suffix in ("", "-wal", "-shm"):
                path = str(self._root / "index.db") + suffix
                if os.path.exists(path):
                    os.unlink(path)
            known = set()
        for pack in sorted(self._packs.glob("*.pack")):
            if pack.name not in known:
                self.add(scan_pack(pack), pack.name)
