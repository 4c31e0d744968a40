"""Datasets: definitions, and the versions that names have of them."""

import json
import uuid
from typing import Any, Dict, List, Optional

from sqlalchemy import Connection, Row, insert, select, update

from runyard.db.labels import changed_values, check_labels
from runyard.db.near import did_you_mean
from runyard.db.tables import datasets
from runyard.db.versions import next_version
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.datasets import Dataset, DatasetSpec, Source
from runyard.protocol.labels import LabelChange
from runyard.protocol.selection import Step
from runyard.protocol.wire import dumps, from_wire


def save_dataset(connection: Connection, spec: DatasetSpec, workspace: str, user: str, now: int) -> Dataset:
    """A saved dataset; with a name, its next registered version.

    The same sources under the same name return the version that has them. Another definition needs
    ``create_new_version``: ConflictError otherwise, as in v1.
    """
    sources, steps = dumps(spec.sources), dumps(spec.steps)
    version = None
    if spec.name is not None:
        latest = _dataset_rows(connection, workspace, spec.name).first()
        if latest is not None:
            if (latest.sources, latest.steps, latest.kind) == (sources, steps, spec.kind):
                return _dataset(latest)
            if not spec.create_new_version:
                raise ConflictError(
                    f"Dataset {spec.name!r} exists with another definition; pass create_new_version=True."
                )
        version = next_version(connection, datasets, workspace, spec.name)
    check_labels(spec.tags, "tag")
    identity = str(uuid.uuid4())
    connection.execute(
        insert(datasets).values(
            id=identity, kind=spec.kind, sources=sources, steps=steps, name=spec.name, version=version,
            description=spec.description, tags=dumps(spec.tags), is_registered=spec.name is not None,
            workspace=workspace, created_by=user, created_at=now,
        )
    )  # fmt: skip
    return get_dataset(connection, workspace, identity)


def get_dataset(connection: Connection, workspace: str, dataset_id: str) -> Dataset:
    """The dataset of that id, registered or not."""
    row = connection.execute(
        select(datasets).where(datasets.c.workspace == workspace, datasets.c.id == dataset_id)
    ).first()
    if row is None:
        raise NotFoundError(f"Dataset {dataset_id!r} does not exist in workspace {workspace!r}.")
    return _dataset(row)


def find_dataset(connection: Connection, workspace: str, name: str, version: Optional[int]) -> Dataset:
    """The registered dataset of that name and version (None: the latest)."""
    for row in _dataset_rows(connection, workspace, name):
        if version is None or row.version == version:
            return _dataset(row)
    what = repr(name) if version is None else f"{name!r} version {version}"
    near = did_you_mean(connection, datasets, workspace, name, datasets.c.is_registered)
    raise NotFoundError(f"Dataset {what} is not registered in workspace {workspace!r}.{near}")


def list_datasets(connection: Connection, workspace: str, name: Optional[str] = None) -> List[Dataset]:
    """The latest version of each registered dataset, or every version of one."""
    if name is not None:
        return [_dataset(row) for row in _dataset_rows(connection, workspace, name)]
    statement = (
        select(datasets)
        .where(datasets.c.workspace == workspace, datasets.c.is_registered)
        .order_by(datasets.c.name, datasets.c.version.desc())
    )
    latest: Dict[str, Dataset] = {}
    for row in connection.execute(statement):
        latest.setdefault(row.name, _dataset(row))
    return list(latest.values())


def change_dataset(connection: Connection, workspace: str, dataset_id: str, change: LabelChange) -> Dataset:
    """Change a dataset's labels."""
    found = get_dataset(connection, workspace, dataset_id)
    values = changed_values(found.tags, None, change)
    if values:
        connection.execute(update(datasets).where(datasets.c.id == dataset_id).values(**values))
    return get_dataset(connection, workspace, dataset_id)


def unregister_dataset(connection: Connection, workspace: str, name: str) -> None:
    """Take all versions of a name off the list; runs that read them keep them by id."""
    find_dataset(connection, workspace, name, None)
    connection.execute(
        update(datasets).where(datasets.c.workspace == workspace, datasets.c.name == name).values(is_registered=False)
    )


def _dataset_rows(connection: Connection, workspace: str, name: str) -> Any:
    return connection.execute(
        select(datasets)
        .where(datasets.c.workspace == workspace, datasets.c.name == name, datasets.c.is_registered)
        .order_by(datasets.c.version.desc())
    )


def _dataset(row: Row[Any]) -> Dataset:
    sources = tuple(from_wire(Source, one) for one in json.loads(row.sources))
    return Dataset(
        row.id, row.workspace, row.kind, sources, row.created_by, row.created_at, row.name, row.version,
        row.description, json.loads(row.tags), tuple(from_wire(Step, one) for one in json.loads(row.steps)),
    )  # fmt: skip
