"""Models and their versions."""

import json
from typing import Any, List, Optional, Sequence

from sqlalchemy import Connection, Row, Select, insert, select, update

from runyard.db.labels import changed_values, check_labels
from runyard.db.near import did_you_mean
from runyard.db.tables import models
from runyard.db.versions import next_version
from runyard.errors import ModelNotFoundException, UserErrorException
from runyard.protocol.models import Model, ModelChange, ModelSpec, ResourceNeeds
from runyard.protocol.runs import Artifact
from runyard.protocol.wire import dumps, from_wire, loads

#: Most datasets that one version names.
DATASETS_MAX = 1_000


def register_model(
    connection: Connection,
    spec: ModelSpec,
    files: Sequence[Artifact],
    tree: str,
    experiment: Optional[str],
    workspace: str,
    user: str,
    now: int,
) -> Model:
    """The model's next version; numbers are unique and without gaps, and a deleted one is never given again."""
    check_labels(spec.tags, "tag")
    check_labels(spec.properties, "property")
    version = next_version(connection, models, workspace, spec.name)
    connection.execute(
        insert(models).values(
            name=spec.name, version=version, tree=tree, files=dumps(tuple(files)),
            description=spec.description, tags=dumps(spec.tags), properties=dumps(spec.properties),
            framework=spec.framework, framework_version=spec.framework_version,
            resources=dumps(spec.resources) if spec.resources else None, run_id=spec.run_id, experiment=experiment,
            datasets=dumps(spec.datasets), is_deleted=False,
            workspace=workspace, created_by=user, created_at=now,
        )
    )  # fmt: skip
    return get_model(connection, workspace, spec.name, version)


def get_model(connection: Connection, workspace: str, name: str, version: Optional[int]) -> Model:
    """The model of that name and version (None: the latest); ModelNotFoundException where there is none."""
    statement = _models(workspace).where(models.c.name == name).order_by(models.c.version.desc())
    if version is not None:
        statement = statement.where(models.c.version == version)
    row = connection.execute(statement.limit(1)).first()
    if row is None:
        what = repr(name) if version is None else f"{name!r} version {version}"
        near = did_you_mean(connection, models, workspace, name, models.c.is_deleted.is_(False))
        raise ModelNotFoundException(f"Model {what} does not exist in workspace {workspace!r}.{near}")
    return _model(row)


def list_models(
    connection: Connection, workspace: str, name: Optional[str], run_id: Optional[str], latest: bool
) -> List[Model]:
    """The workspace's models by name, each name's newest version first."""
    statement = _models(workspace).order_by(models.c.name, models.c.version.desc())
    if name is not None:
        statement = statement.where(models.c.name == name)
    if run_id is not None:
        statement = statement.where(models.c.run_id == run_id)
    found = [_model(row) for row in connection.execute(statement)]
    if not latest:
        return found
    return list({model.name: model for model in reversed(found)}.values())[::-1]


def change_model(connection: Connection, workspace: str, name: str, version: int, change: ModelChange) -> Model:
    """Change what is not a model's files; a property that exists keeps its value."""
    found = get_model(connection, workspace, name, version)
    values = changed_values(found.tags, found.properties, change)
    if change.resources is not None:
        values["resources"] = dumps(change.resources)
    if change.datasets:
        datasets = tuple(dict.fromkeys([*found.datasets, *change.datasets]))
        if len(datasets) > DATASETS_MAX:
            raise UserErrorException(f"A model comes from at most {DATASETS_MAX} datasets, not {len(datasets)}.")
        values["datasets"] = dumps(datasets)
    if values:
        connection.execute(_model_update(workspace, name, version).values(**values))
    return get_model(connection, workspace, name, version)


def delete_model(connection: Connection, workspace: str, name: str, version: int) -> None:
    """Delete a version; its number is not given again."""
    get_model(connection, workspace, name, version)
    connection.execute(_model_update(workspace, name, version).values(is_deleted=True))


def _models(workspace: str) -> Select[Any]:
    return select(models).where(models.c.workspace == workspace, models.c.is_deleted.is_(False))


def _model_update(workspace: str, name: str, version: int) -> Any:
    return update(models).where(models.c.workspace == workspace, models.c.name == name, models.c.version == version)


def _model(row: Row[Any]) -> Model:
    return Model(
        id=f"{row.name}:{row.version}", name=row.name, version=row.version, workspace=row.workspace,
        created_by=row.created_by, created_at=row.created_at, tree=row.tree,
        files=tuple(from_wire(Artifact, one) for one in json.loads(row.files)), description=row.description,
        tags=json.loads(row.tags), properties=json.loads(row.properties), framework=row.framework,
        framework_version=row.framework_version,
        resources=loads(ResourceNeeds, row.resources) if row.resources else None, run_id=row.run_id,
        experiment=row.experiment, datasets=tuple(tuple(pair) for pair in json.loads(row.datasets)),
    )  # fmt: skip
