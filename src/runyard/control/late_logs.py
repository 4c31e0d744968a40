"""Logs that no runner has stored, as of a machine that was lost, or that came after the run's end: into its record."""

from pathlib import Path
from typing import Any

from sqlalchemy import Row

from runyard.db import runs
from runyard.db.engine import Database
from runyard.errors import RunyardError
from runyard.protocol.runs import LOG_FOLDERS, Artifact
from runyard.protocol.trees import check_path
from runyard.storage.base import ArtifactStore
from runyard.storage.whole import put_file


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
    digest, size_bytes = put_file(store, path)
    if digest:
        artifact = Artifact(name, digest, size_bytes)
        database.write_bulk(lambda connection: runs.add_artifacts(connection, row, [artifact], "control", now))
    return bool(digest)
