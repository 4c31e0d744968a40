"""Logs that no runner has stored, as of a machine that was lost, or that came after the run's end: into its record."""

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from runyard.db import runs
from runyard.db.engine import Database
from runyard.errors import RunyardError
from runyard.protocol.blobs import UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, combine
from runyard.protocol.runs import LOG_FOLDERS, Artifact
from runyard.protocol.trees import check_path
from runyard.storage.base import ArtifactStore


def keep_log(database: Database, store: ArtifactStore, row: Row[Any], folder: Path, path: Path, now: int) -> bool:
    """Store a log of an ended run, from below ``folder``, and record it; False where it cannot be, by its name.

    Nothing may be added to it any more. Idempotent; what is not whole is done again by the next one who asks.
    """
    name = path.relative_to(folder).as_posix()
    try:
        check_path(name)
    except RunyardError:
        return False
    if not name.startswith(LOG_FOLDERS) or path.is_symlink():
        return False
    digest, size_bytes = _store(store, path)
    if digest:
        artifact = Artifact(name, digest, size_bytes)
        database.write_bulk(lambda connection: runs.add_artifacts(connection, row, [artifact], "control", now))
    return bool(digest)


def _store(store: ArtifactStore, path: Path) -> tuple[str, int]:
    """The content's digest and size; '' where the store is not done with it yet."""
    size_bytes = path.stat().st_size
    if size_bytes <= CHUNK_BYTES:
        return store.put_many([path.read_bytes()])[0], size_bytes
    with open(path, "rb") as file:
        chunks = [hashlib.sha256(piece).digest() for piece in iter(lambda: file.read(CHUNK_BYTES), b"")]
        spec = UploadSpec(combine(chunks), size_bytes, tuple(one.hex() for one in chunks))
        if store.has([spec.digest]):
            return spec.digest, size_bytes
        upload = store.plan_upload(spec)
        for number in range(1, len(chunks) + 1):
            if number not in upload.present:
                offset = (number - 1) * CHUNK_BYTES
                file.seek(offset)
                store.append_upload(upload.upload_id, offset, file.read(CHUNK_BYTES))
    return store.finish_upload(upload.upload_id, spec.digest), size_bytes
