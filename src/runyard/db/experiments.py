"""Experiments."""

import json
import uuid
from typing import Any, List, Optional

from sqlalchemy import Connection, Row, bindparam, insert, select

from runyard.db.tables import experiments
from runyard.errors import NotFoundError
from runyard.protocol.experiments import Experiment

_EXPERIMENT = select(experiments).where(
    experiments.c.workspace == bindparam("owner"), experiments.c.name == bindparam("named")
)


def create_experiment(connection: Connection, workspace: str, name: str, user: str, now: int) -> Experiment:
    """The experiment of that name, made if there is none."""
    found = _experiment_row(connection, workspace, name)
    if found is not None:
        return _experiment(found)
    values = {"id": str(uuid.uuid4()), "name": name, "tags": "{}", "runs": 0}
    connection.execute(insert(experiments).values(workspace=workspace, created_by=user, created_at=now, **values))
    return get_experiment(connection, workspace, name)


def get_experiment(connection: Connection, workspace: str, name: str) -> Experiment:
    """The experiment; NotFoundError where there is none."""
    row = _experiment_row(connection, workspace, name)
    if row is None:
        raise NotFoundError(f"Experiment {name!r} does not exist in workspace {workspace!r}.")
    return _experiment(row)


def list_experiments(connection: Connection, workspace: str) -> List[Experiment]:
    """The workspace's experiments by name."""
    statement = select(experiments).where(experiments.c.workspace == workspace).order_by(experiments.c.name)
    return [_experiment(row) for row in connection.execute(statement)]


def _experiment_row(connection: Connection, workspace: str, name: str) -> Optional[Row[Any]]:
    return connection.execute(_EXPERIMENT, {"owner": workspace, "named": name}).first()


def _experiment(row: Row[Any]) -> Experiment:
    return Experiment(row.id, row.name, row.workspace, row.created_by, row.created_at, json.loads(row.tags))
