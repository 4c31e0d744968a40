"""Workspaces, experiments, datastores, datasets, environments and models."""

import json
import uuid
from typing import Any, Dict, List, Optional, Sequence

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from runyard.db.runs import check_labels
from runyard.db.tables import datasets, datastores, environments, experiments, models, workspaces
from runyard.errors import ConflictError, ModelNotFoundException, NotFoundError, UserErrorException
from runyard.protocol.assets import (
    DEFAULT_DATASTORE,
    Dataset,
    DatasetSpec,
    Datastore,
    Environment,
    Experiment,
    LabelChange,
    Model,
    ModelSpec,
    ResourceNeeds,
    Workspace,
    WorkspaceSpec,
)
from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.plan import Source
from runyard.protocol.runs import Artifact
from runyard.protocol.wire import dumps, from_wire, loads, to_wire


def create_workspace(connection: Connection, spec: WorkspaceSpec, user: str, now: int) -> Workspace:
    """A new workspace with its default datastore; one of that name is returned, unless the spec forbids it."""
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
            tags=_json(spec.tags), created_by=user, created_at=now,
        )
    )  # fmt: skip
    connection.execute(
        insert(datastores).values(
            name=DEFAULT_DATASTORE, kind="folder", is_default=True, workspace=spec.name, created_by=user, created_at=now
        )
    )
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


def save_dataset(connection: Connection, spec: DatasetSpec, workspace: str, user: str, now: int) -> Dataset:
    """A saved dataset; with a name, its next registered version.

    The same sources under the same name return the version that has them. Another definition needs
    ``create_new_version``: ConflictError otherwise, as in v1.
    """
    sources = dumps(spec.sources)
    version = None
    if spec.name is not None:
        latest = _dataset_rows(connection, workspace, spec.name).first()
        if latest is not None:
            if latest.sources == sources and latest.kind == spec.kind:
                return _dataset(latest)
            if not spec.create_new_version:
                raise ConflictError(
                    f"Dataset {spec.name!r} exists with another definition; pass create_new_version=True."
                )
        version = _next_version(connection, datasets, workspace, spec.name)
    check_labels(spec.tags, "tag")
    identity = str(uuid.uuid4())
    connection.execute(
        insert(datasets).values(
            id=identity, kind=spec.kind, sources=sources, name=spec.name, version=version,
            description=spec.description, tags=_json(spec.tags), is_registered=spec.name is not None,
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
    raise NotFoundError(f"Dataset {what} is not registered in workspace {workspace!r}.")


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
    values = _label_values(found.tags, None, change)
    if values:
        connection.execute(update(datasets).where(datasets.c.id == dataset_id).values(**values))
    return get_dataset(connection, workspace, dataset_id)


def unregister_dataset(connection: Connection, workspace: str, name: str) -> None:
    """Take all versions of a name off the list; runs that read them keep them by id."""
    find_dataset(connection, workspace, name, None)
    connection.execute(
        update(datasets).where(datasets.c.workspace == workspace, datasets.c.name == name).values(is_registered=False)
    )


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
    raise NotFoundError(f"Environment {what} does not exist in workspace {workspace!r}.")


def list_environments(connection: Connection, workspace: str) -> List[Environment]:
    """The latest version of each registered environment."""
    statement = select(environments).where(environments.c.workspace == workspace)
    latest = {row.name: _environment(row) for row in connection.execute(statement.order_by(environments.c.row))}
    return [latest[name] for name in sorted(latest)]


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
    version = _next_version(connection, models, workspace, spec.name)
    connection.execute(
        insert(models).values(
            name=spec.name, version=version, tree=tree, files=_json(to_wire(tuple(files))),
            description=spec.description, tags=_json(spec.tags), properties=_json(spec.properties),
            framework=spec.framework, framework_version=spec.framework_version,
            resources=dumps(spec.resources) if spec.resources else None, run_id=spec.run_id, experiment=experiment,
            datasets=_json(to_wire(spec.datasets)), is_deleted=False,
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
        raise ModelNotFoundException(f"Model {what} does not exist in workspace {workspace!r}.")
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


def change_model(connection: Connection, workspace: str, name: str, version: int, change: LabelChange) -> Model:
    """Change a model's labels; a property that exists keeps its value."""
    found = get_model(connection, workspace, name, version)
    values = _label_values(found.tags, found.properties, change)
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


def _label_values(tags: Dict[str, str], properties: Optional[Dict[str, str]], change: LabelChange) -> Dict[str, Any]:
    values: Dict[str, Any] = {}
    if change.description is not None:
        values["description"] = change.description
    if change.tags is not None or change.remove_tags:
        kept = {key: value for key, value in tags.items() if key not in change.remove_tags}
        kept.update(change.tags or {})
        check_labels(kept, "tag")
        values["tags"] = _json(kept)
    if change.properties is not None:
        if properties is None:
            raise UserErrorException("A dataset has tags and a description, but no properties.")
        for key, value in change.properties.items():
            if properties.get(key, value) != value:
                raise ConflictError(f"Property {key!r} is set and cannot change.")
        check_labels(change.properties, "property")
        values["properties"] = _json({**properties, **change.properties})
    return values


def _next_version(connection: Connection, table: Any, workspace: str, name: str) -> int:
    highest = select(func.max(table.c.version)).where(table.c.workspace == workspace, table.c.name == name)
    return (connection.execute(highest).scalar() or 0) + 1


_EXPERIMENT = select(experiments).where(
    experiments.c.workspace == bindparam("owner"), experiments.c.name == bindparam("named")
)


def _experiment_row(connection: Connection, workspace: str, name: str) -> Optional[Row[Any]]:
    return connection.execute(_EXPERIMENT, {"owner": workspace, "named": name}).first()


def _dataset_rows(connection: Connection, workspace: str, name: str) -> Any:
    return connection.execute(
        select(datasets)
        .where(datasets.c.workspace == workspace, datasets.c.name == name, datasets.c.is_registered)
        .order_by(datasets.c.version.desc())
    )


def _environment_rows(connection: Connection, workspace: str, name: str) -> Any:
    return connection.execute(
        select(environments)
        .where(environments.c.workspace == workspace, environments.c.name == name)
        .order_by(environments.c.row.desc())
    )


def _workspace(row: Row[Any]) -> Workspace:
    return Workspace(
        row.id, row.name, row.subscription_id, row.resource_group, row.location, row.friendly_name, row.description,
        row.created_by, row.created_at, json.loads(row.tags),
    )  # fmt: skip


def _experiment(row: Row[Any]) -> Experiment:
    return Experiment(row.id, row.name, row.workspace, row.created_by, row.created_at, json.loads(row.tags))


def _datastore(row: Row[Any]) -> Datastore:
    return Datastore(row.name, row.workspace, row.kind, row.is_default, row.created_by, row.created_at)


def _dataset(row: Row[Any]) -> Dataset:
    sources = tuple(from_wire(Source, one) for one in json.loads(row.sources))
    return Dataset(
        row.id, row.workspace, row.kind, sources, row.created_by, row.created_at, row.name, row.version,
        row.description, json.loads(row.tags),
    )  # fmt: skip


def _environment(row: Row[Any]) -> Environment:
    spec = loads(EnvironmentSpec, row.spec)
    return Environment(row.name, row.version, row.workspace, spec, row.created_by, row.created_at)


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


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
