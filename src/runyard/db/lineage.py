"""Which run read or made which dataset, read both ways."""

from typing import Any, List

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.tables import dataset_uses
from runyard.protocol.lineage import DatasetUse

#: Most lines of one answer, the newest.
USES_MAX = 10_000

_ADD = upsert(dataset_uses).on_conflict_do_nothing()
_USES = select(*[dataset_uses.c[name] for name in ("run_id", "dataset_id", "direction", "name", "created_at")])
_OF_RUN = _USES.where(dataset_uses.c.workspace == bindparam("owner"), dataset_uses.c.run_id == bindparam("of_run"))
_OF_DATASET = _USES.where(
    dataset_uses.c.workspace == bindparam("owner"), dataset_uses.c.dataset_id == bindparam("of_dataset")
)


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


def _use(row: Any) -> DatasetUse:
    return DatasetUse(row.run_id, row.dataset_id, row.direction, row.name, row.created_at)
