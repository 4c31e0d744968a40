"""Datastores; each workspace is made with one (``workspaces.create_workspace``)."""

from typing import Any, List

from sqlalchemy import Connection, Row, select

from runyard.db.tables import datastores
from runyard.errors import NotFoundError
from runyard.protocol.datastores import Datastore


def list_datastores(connection: Connection, workspace: str) -> List[Datastore]:
    """The workspace's datastores by name."""
    statement = select(datastores).where(datastores.c.workspace == workspace).order_by(datastores.c.name)
    return [_datastore(row) for row in connection.execute(statement)]


def get_datastore(connection: Connection, workspace: str, name: str) -> Datastore:
    """The datastore; NotFoundError where there is none."""
    found = {one.name: one for one in list_datastores(connection, workspace)}
    if name not in found:
        raise NotFoundError(
            "Datastore {!r} does not exist in workspace {!r}; it has {}.".format(name, workspace, ", ".join(found))
        )
    return found[name]


def _datastore(row: Row[Any]) -> Datastore:
    return Datastore(row.name, row.workspace, row.kind, row.is_default, row.created_by, row.created_at)
