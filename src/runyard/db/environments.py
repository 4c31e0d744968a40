"""Registered environments and their versions."""

from typing import Any, List, Optional

from sqlalchemy import Connection, Row, insert, select

from runyard.db.near import did_you_mean
from runyard.db.tables import environments
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.environments import Environment, EnvironmentSpec
from runyard.protocol.wire import dumps, loads


def register_environment(
    connection: Connection, spec: EnvironmentSpec, digest: str, workspace: str, user: str, now: int
) -> Environment:
    """The environment's next version; the same content again is the version that has it."""
    rows = _environment_rows(connection, workspace, spec.name).all()
    for row in rows:
        if row.spec_digest == digest and row.version in (spec.version or row.version, row.version):
            return _environment(row)
    version = spec.version or str(1 + max((int(r.version) for r in rows if r.version.isdigit()), default=0))
    if any(row.version == version for row in rows):
        raise ConflictError(f"Environment {spec.name!r} version {version} exists with other content.")
    connection.execute(
        insert(environments).values(
            name=spec.name, version=version, spec=dumps(spec), spec_digest=digest,
            workspace=workspace, created_by=user, created_at=now,
        )
    )  # fmt: skip
    return get_environment(connection, workspace, spec.name, version)


def get_environment(connection: Connection, workspace: str, name: str, version: Optional[str]) -> Environment:
    """The environment of that name and version (None: the latest)."""
    for row in _environment_rows(connection, workspace, name):
        if version is None or row.version == version:
            return _environment(row)
    what = repr(name) if version is None else f"{name!r} version {version}"
    near = did_you_mean(connection, environments, workspace, name)
    raise NotFoundError(f"Environment {what} does not exist in workspace {workspace!r}.{near}")


def list_environments(connection: Connection, workspace: str) -> List[Environment]:
    """The latest version of each registered environment."""
    statement = select(environments).where(environments.c.workspace == workspace)
    latest = {row.name: _environment(row) for row in connection.execute(statement.order_by(environments.c.row))}
    return [latest[name] for name in sorted(latest)]


def _environment_rows(connection: Connection, workspace: str, name: str) -> Any:
    return connection.execute(
        select(environments)
        .where(environments.c.workspace == workspace, environments.c.name == name)
        .order_by(environments.c.row.desc())
    )


def _environment(row: Row[Any]) -> Environment:
    spec = loads(EnvironmentSpec, row.spec)
    return Environment(row.name, row.version, row.workspace, spec, row.created_by, row.created_at)
