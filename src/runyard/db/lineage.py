"""Which run read or made which dataset, both ways; and what the files of the web were when they were first read."""

from datetime import UTC, datetime
from typing import Any, List, Sequence

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.tables import dataset_files, dataset_uses
from runyard.protocol.lineage import DatasetUse, SeenFile
from runyard.protocol.mounts import shown_url

#: Most lines of one answer, the newest.
USES_MAX = 10_000

_ADD = upsert(dataset_uses).on_conflict_do_nothing()
_USES = select(*[dataset_uses.c[name] for name in ("run_id", "dataset_id", "direction", "name", "created_at")])
_OF_RUN = _USES.where(dataset_uses.c.workspace == bindparam("owner"), dataset_uses.c.run_id == bindparam("of_run"))
_OF_DATASET = _USES.where(
    dataset_uses.c.workspace == bindparam("owner"), dataset_uses.c.dataset_id == bindparam("of_dataset")
)
_FILE = select(dataset_files).where(
    dataset_files.c.dataset_id == bindparam("of_dataset"), dataset_files.c.url == bindparam("of_url")
)
_ADD_FILE = upsert(dataset_files).on_conflict_do_nothing()


def add_use(connection: Connection, workspace: str, use: DatasetUse, user: str) -> None:
    """Note it, once."""
    connection.execute(
        _ADD,
        {
            "workspace": workspace, "created_by": user, "created_at": use.at, "run_id": use.run_id,
            "dataset_id": use.dataset_id, "direction": use.direction, "name": use.name,
        },
    )  # fmt: skip


def list_of_run(connection: Connection, workspace: str, run_id: str) -> List[DatasetUse]:
    """What the run read and made, in that order."""
    found = connection.execute(_OF_RUN.order_by(dataset_uses.c.direction), {"owner": workspace, "of_run": run_id})
    return [_use(row) for row in found]


def list_of_dataset(connection: Connection, workspace: str, dataset_id: str) -> List[DatasetUse]:
    """The runs that read or made the dataset, newest first."""
    newest = _OF_DATASET.order_by(dataset_uses.c.created_at.desc()).limit(USES_MAX)
    return [_use(row) for row in connection.execute(newest, {"owner": workspace, "of_dataset": dataset_id})]


def note_files(
    connection: Connection, workspace: str, dataset_id: str, run_id: str, files: Sequence[SeenFile], user: str, now: int
) -> List[str]:
    """Note files that nobody has read before; returns a sentence for each that is not what it was then."""
    owned = {"workspace": workspace, "created_by": user, "created_at": now, "dataset_id": dataset_id, "run_id": run_id}
    changed = []
    for one in files:
        row = connection.execute(_FILE, {"of_dataset": dataset_id, "of_url": one.url}).first()
        if row is None:
            values = {"url": one.url, "size_bytes": one.size_bytes, "sha256": one.sha256}
            connection.execute(_ADD_FILE, {**owned, **values})
        elif row.sha256 != one.sha256:
            day = datetime.fromtimestamp(row.created_at / 1e6, UTC).date()
            changed.append(
                f"{shown_url(one.url)} has changed since run {row.run_id} read it first on {day}: it had "
                f"{row.size_bytes} bytes (SHA-256 {row.sha256[:12]}...) and has {one.size_bytes} "
                f"({one.sha256[:12]}...) now."
            )
    return changed


def _use(row: Any) -> DatasetUse:
    return DatasetUse(row.run_id, row.dataset_id, row.direction, row.name, row.created_at)
