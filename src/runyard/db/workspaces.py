"""Workspaces."""

import json
import uuid
from typing import Any, List

from sqlalchemy import Connection, Row, insert, select

from runyard.db.tables import datastores, workspaces
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.datastores import DEFAULT_DATASTORE, FILE_DATASTORES, DatastoreKind
from runyard.protocol.wire import dumps
from runyard.protocol.workspaces import Workspace, WorkspaceSpec


def create_workspace(connection: Connection, spec: WorkspaceSpec, user: str, now: int) -> Workspace:
    """A new workspace with its datastores; one of that name is returned, unless the spec forbids it."""
    row = connection.execute(select(workspaces).where(workspaces.c.name == spec.name)).first()
    if row is not None:
        if not spec.exist_ok:
            raise ConflictError(f"Workspace {spec.name!r} exists already; pass exist_ok=True to use it.")
        return _workspace(row)
    connection.execute(
        insert(workspaces).values(
            id=str(uuid.uuid4()), name=spec.name, subscription_id=spec.subscription_id,
            resource_group=spec.resource_group, location=spec.location,
            friendly_name=spec.friendly_name or spec.name, description=spec.description,
            tags=dumps(spec.tags), created_by=user, created_at=now,
        )
    )  # fmt: skip
    for name in (DEFAULT_DATASTORE, *FILE_DATASTORES):
        connection.execute(
            insert(datastores).values(
                name=name, kind=DatastoreKind.FOLDER, is_default=name == DEFAULT_DATASTORE,
                workspace=spec.name, created_by=user, created_at=now,
            )
        )  # fmt: skip
    return get_workspace(connection, spec.name)


def get_workspace(connection: Connection, name: str) -> Workspace:
    """The workspace; NotFoundError where there is none."""
    row = connection.execute(select(workspaces).where(workspaces.c.name == name)).first()
    if row is None:
        raise NotFoundError(f"Workspace {name!r} does not exist on this server.")
    return _workspace(row)


def list_workspaces(connection: Connection) -> List[Workspace]:
    """All workspaces by name."""
    return [_workspace(row) for row in connection.execute(select(workspaces).order_by(workspaces.c.name))]


def _workspace(row: Row[Any]) -> Workspace:
    return Workspace(
        row.id, row.name, row.subscription_id, row.resource_group, row.location, row.friendly_name, row.description,
        row.created_by, row.created_at, json.loads(row.tags),
    )  # fmt: skip
