"""Which run read or made which dataset, both ways; and what the files of the web were when they were first read."""

import json
from datetime import UTC, datetime
from typing import Any, Dict, List, Sequence

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.tables import dataset_files, dataset_totals, dataset_uses
from runyard.protocol.datasets import Dataset
from runyard.protocol.lineage import DatasetUse, Direction, SeenFile, Totals
from runyard.protocol.mounts import shown_url
from runyard.protocol.words import counted, is_or_are

#: Most lines of one answer, the newest.
USES_MAX = 10_000
#: How many of a dataset's lost files a sentence names.
NAMES_SHOWN = 10

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
_TOTALS = select(dataset_totals).where(dataset_totals.c.dataset_id == bindparam("of_dataset"))
_ADD_TOTALS = upsert(dataset_totals).on_conflict_do_nothing()


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


def is_input(connection: Connection, workspace: str, run_id: str, dataset_id: str) -> bool:
    """Was the run submitted with that dataset as an input?"""
    uses = list_of_run(connection, workspace, run_id)
    return any(one.dataset_id == dataset_id and one.direction == Direction.INPUT for one in uses)


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


def keep_totals(connection: Connection, found: Dataset, totals: Totals, user: str, now: int) -> None:
    """What whoever registers the dataset has found, in place of what was known."""
    connection.execute(delete(dataset_totals).where(dataset_totals.c.dataset_id == found.id))
    connection.execute(_ADD_TOTALS, _total_values(found, "", totals, user, now))


def note_totals(connection: Connection, found: Dataset, run_id: str, totals: Totals, user: str, now: int) -> List[str]:
    """Note them if nothing is known of the dataset yet; returns a sentence where they are less, or not the same."""
    row = connection.execute(_TOTALS, {"of_dataset": found.id}).first()
    if row is None:
        connection.execute(_ADD_TOTALS, _total_values(found, run_id, totals, user, now))
        return []
    since = f"run {row.run_id} read it first" if row.run_id else "it was registered"
    since += f" on {datetime.fromtimestamp(row.created_at / 1e6, UTC).date()}"
    known = json.loads(row.names)
    is_named = len(known) == row.file_count and len(totals.names) == totals.count
    gone = sorted(set(known) - set(totals.names)) if is_named else []
    lost = len(gone) if is_named else max(0, row.file_count - totals.count)
    if lost:
        shown = ": " + ", ".join(map(repr, gone[:NAMES_SHOWN])) if gone else ""
        more = f" and {len(gone) - NAMES_SHOWN} more" if len(gone) > NAMES_SHOWN else ""
        files = counted(row.file_count, "file")
        return [f"{lost} of the {files} of dataset {found.name!r} {is_or_are(lost)} gone since {since}{shown}{more}."]
    sizes = {row.size_bytes, totals.size_bytes}
    if row.file_count == totals.count and None not in sizes and len(sizes) == 2:
        return [
            f"The files of dataset {found.name!r} have changed since {since}: they had {row.size_bytes} bytes in all, "
            f"and have {totals.size_bytes} now."
        ]
    return []


def _total_values(found: Dataset, run_id: str, totals: Totals, user: str, now: int) -> Dict[str, Any]:
    return {
        "workspace": found.workspace, "created_by": user, "created_at": now, "dataset_id": found.id, "run_id": run_id,
        "file_count": totals.count, "size_bytes": totals.size_bytes, "names": json.dumps(totals.names),
    }  # fmt: skip


def _use(row: Any) -> DatasetUse:
    return DatasetUse(row.run_id, row.dataset_id, row.direction, row.name, row.created_at)
