"""Datastores; each workspace is made with some (``workspaces.create_workspace``)."""

from typing import Any, List

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, update

from runyard.db.near import did_you_mean
from runyard.db.tables import datastores
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.datastores import Datastore, DatastoreSpec


def list_datastores(connection: Connection, workspace: str) -> List[Datastore]:
    """The workspace's datastores by name."""
    statement = select(datastores).where(datastores.c.workspace == workspace).order_by(datastores.c.name)
    return [_datastore(row) for row in connection.execute(statement)]


def get_datastore(connection: Connection, workspace: str, name: str) -> Datastore:
    """The datastore; NotFoundError where there is none."""
    found = {one.name: one for one in list_datastores(connection, workspace)}
    if name not in found:
        near = did_you_mean(connection, datastores, workspace, name)
        raise NotFoundError(
            f"Datastore {name!r} does not exist in workspace {workspace!r}; it has {', '.join(found)}.{near}"
        )
    return found[name]


def save_datastore(
    connection: Connection, spec: DatastoreSpec, secret: str, workspace: str, user: str, now: int
) -> Datastore:
    """Register it, or replace one of that name where the spec says so; ConflictError elsewhere."""
    known = {one.name: one for one in list_datastores(connection, workspace)}.get(spec.name)
    if known is not None and not spec.overwrite:
        raise ConflictError(f"Datastore {spec.name!r} exists already; pass overwrite=True, or choose another name.")
    if known is not None and not known.root:
        raise ConflictError(f"Datastore {spec.name!r} came with the workspace and cannot be replaced.")
    values = {
        "kind": spec.kind, "root": spec.root, "account": spec.account, "endpoint": spec.endpoint, "secret": secret,
        "created_by": user, "created_at": now,
    }  # fmt: skip
    if known is None:
        connection.execute(insert(datastores).values(name=spec.name, workspace=workspace, is_default=False, **values))
    else:
        connection.execute(update(datastores).where(_is(workspace, spec.name)).values(**values))
    return get_datastore(connection, workspace, spec.name)


def remove_datastore(connection: Connection, workspace: str, name: str) -> None:
    """Take it off the list; its files stay where they are."""
    known = get_datastore(connection, workspace, name)
    if not known.root:
        raise ConflictError(f"Datastore {name!r} came with the workspace and stays.")
    if known.is_default:
        raise ConflictError(f"Datastore {name!r} is the default; make another one the default first.")
    connection.execute(delete(datastores).where(_is(workspace, name)))


def set_default_datastore(connection: Connection, workspace: str, name: str) -> Datastore:
    """Make it the one that is used where none is named."""
    get_datastore(connection, workspace, name)
    mine = datastores.c.workspace == workspace
    connection.execute(update(datastores).where(mine).values(is_default=datastores.c.name == name))
    return get_datastore(connection, workspace, name)


def get_secret(connection: Connection, workspace: str, name: str) -> str:
    """Its credentials, as the vault locked them."""
    return str(connection.execute(select(datastores.c.secret).where(_is(workspace, name))).scalar_one())


def _is(workspace: str, name: str) -> ColumnElement[bool]:
    return and_(datastores.c.workspace == workspace, datastores.c.name == name)


def _datastore(row: Row[Any]) -> Datastore:
    return Datastore(
        row.name, row.workspace, row.kind, row.is_default, row.created_by, row.created_at,
        row.root, row.account, row.endpoint,
    )  # fmt: skip
