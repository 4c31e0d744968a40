"""Workspaces, experiments, datastores, datasets, environments and models."""

from pathlib import Path
from typing import List, Tuple
from urllib.parse import urlsplit

from runyard.db import assets, runs
from runyard.environments.curated import find_curated, is_reserved, list_curated
from runyard.errors import IntegrityError, ModelNotFoundException, NotFoundError, UserErrorException
from runyard.files.datastores import FolderDatastore
from runyard.protocol.assets import (
    Dataset,
    DatasetSpec,
    Datastore,
    DatastoreFile,
    Environment,
    Experiment,
    LabelChange,
    Model,
    ModelSpec,
    Workspace,
    WorkspaceSpec,
)
from runyard.protocol.digests import check_digest
from runyard.protocol.environments import EnvironmentSpec, spec_digest
from runyard.protocol.identity import EnvironmentBody, PrincipalKind
from runyard.protocol.plan import Source
from runyard.protocol.runs import Artifact
from runyard.protocol.trees import Tree, TreeEntry, check_distinct, check_path, encode_tree
from runyard.server import names
from runyard.server.call import Call, Content, Upload

#: Most sources of a dataset, and the longest of them, in characters.
SOURCES_MAX, SOURCE_CHARS_MAX = 10_000, 4_096
#: Most files of a model.
MODEL_FILES_MAX = 100_000


def create_workspace(call: Call) -> Workspace:
    """A new workspace, or the one of that name."""
    spec: WorkspaceSpec = call.body
    names.check_workspace_name(spec.name)
    return call.parts.database.write(lambda c: assets.create_workspace(c, spec, call.user, call.now))


def list_workspaces(call: Call) -> List[Workspace]:
    """Those that the principal may see."""
    with call.parts.database.read() as connection:
        found = assets.list_workspaces(connection)
    only = call.principal.workspace if call.principal else None
    return [one for one in found if only is None or one.name == only]


def get_workspace(call: Call) -> Workspace:
    """The workspace."""
    with call.parts.database.read() as connection:
        return assets.get_workspace(connection, call.workspace)


def create_experiment(call: Call) -> Experiment:
    """The experiment, made if there is none."""
    name = names.check_experiment_name(call.path["name"])
    get_workspace(call)
    return call.parts.database.write(lambda c: assets.create_experiment(c, call.workspace, name, call.user, call.now))


def get_experiment(call: Call) -> Experiment:
    """The experiment."""
    with call.parts.database.read() as connection:
        return assets.get_experiment(connection, call.workspace, call.path["name"])


def list_experiments(call: Call) -> List[Experiment]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return assets.list_experiments(connection, call.workspace)


def list_datastores(call: Call) -> List[Datastore]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return assets.list_datastores(connection, call.workspace)


def get_datastore(call: Call) -> Datastore:
    """The datastore."""
    with call.parts.database.read() as connection:
        return assets.get_datastore(connection, call.workspace, call.path["name"])


def list_datastore_files(call: Call) -> List[DatastoreFile]:
    """Files at a path, below a folder, or that match a glob."""
    return _folder(call).list(call.query.get("path", ""))


def read_datastore_file(call: Call) -> Content:
    """One file."""
    file = _folder(call).open(call.path["path"])
    return Content(file=file, size_bytes=Path(file.name).stat().st_size)


def write_datastore_file(call: Call) -> DatastoreFile:
    """Store one file, all of it or nothing."""
    body: Upload = call.body
    with open(body.path, "rb") as source:
        return _folder(call).write(call.path["path"], source, call.query.get("overwrite") == "1")


def save_dataset(call: Call) -> Dataset:
    """Keep a dataset's definition; with a name, as its next version."""
    spec: DatasetSpec = call.body
    if spec.name is not None:
        names.check_asset_name(spec.name)
    if not 0 < len(spec.sources) <= SOURCES_MAX:
        raise UserErrorException(f"A dataset has 1 to {SOURCES_MAX} sources, not {len(spec.sources)}.")
    for source in spec.sources:
        _check_source(call, source)
    get_workspace(call)
    return call.parts.database.write(lambda c: assets.save_dataset(c, spec, call.workspace, call.user, call.now))


def list_datasets(call: Call) -> List[Dataset]:
    """The latest version of each name, or every version of one."""
    with call.parts.database.read() as connection:
        return assets.list_datasets(connection, call.workspace, call.query.get("name"))


def get_dataset(call: Call) -> Dataset:
    """By id."""
    with call.parts.database.read() as connection:
        return assets.get_dataset(connection, call.workspace, call.path["dataset_id"])


def find_dataset(call: Call) -> Dataset:
    """By name and version."""
    version = call.integer("version", 0)
    with call.parts.database.read() as connection:
        return assets.find_dataset(connection, call.workspace, call.path["name"], version or None)


def change_dataset(call: Call) -> Dataset:
    """Change its labels."""
    change: LabelChange = call.body
    return call.parts.database.write(
        lambda c: assets.change_dataset(c, call.workspace, call.path["dataset_id"], change)
    )


def unregister_dataset(call: Call) -> None:
    """Take its name off the list."""
    call.parts.database.write(lambda c: assets.unregister_dataset(c, call.workspace, call.path["name"]))


def register_environment(call: Call) -> Environment:
    """Its next version; the names of curated environments are reserved."""
    body: EnvironmentBody = call.body
    spec = body.spec
    names.check_asset_name(spec.name)
    names.check_variables(spec.variables)
    if is_reserved(spec.name):
        raise UserErrorException(
            f"The name {spec.name!r} is reserved for curated environments; choose another, or clone(new_name=...)."
        )
    get_workspace(call)
    digest = spec_digest(spec)
    return call.parts.database.write(
        lambda c: assets.register_environment(c, spec, digest, call.workspace, call.user, call.now)
    )


def list_environments(call: Call) -> List[Environment]:
    """Registered and curated ones."""
    with call.parts.database.read() as connection:
        workspace = assets.get_workspace(connection, call.workspace)
        found = assets.list_environments(connection, call.workspace)
    return found + [_curated(spec, workspace) for spec in list_curated()]


def get_environment(call: Call) -> Environment:
    """By name and version."""
    name = call.path["name"]
    with call.parts.database.read() as connection:
        workspace = assets.get_workspace(connection, call.workspace)
        ours = find_curated(name)
        if ours is not None:
            return _curated(ours, workspace)
        return assets.get_environment(connection, call.workspace, name, call.query.get("version") or None)


def register_model(call: Call) -> Model:
    """A run's files, or contents sent before, as a model's next version; copies nothing."""
    spec: ModelSpec = call.body
    names.check_asset_name(spec.name)
    if call.principal is not None and call.principal.kind == PrincipalKind.RUN and spec.run_id != call.principal.run_id:
        raise UserErrorException("A run registers models from its own files only.")
    if spec.framework_version is not None and spec.framework == "Custom":
        raise UserErrorException("A framework_version needs a framework.")
    experiment = None
    if spec.run_id is not None:
        names.check_run_id(spec.run_id)
        experiment, files = _run_files(call, spec)
    else:
        files = _sent_files(call, spec)
    entries = tuple(TreeEntry(one.path, one.digest, one.size_bytes) for one in files)
    made = Tree(tuple(sorted(entries, key=lambda entry: entry.path)))
    check_distinct(made)
    (tree,) = call.parts.store.put_many([encode_tree(made)])
    return call.parts.database.write(
        lambda c: assets.register_model(c, spec, files, tree, experiment, call.workspace, call.user, call.now)
    )


def list_models(call: Call) -> List[Model]:
    """By name, newest first."""
    query = call.query
    with call.parts.database.read() as connection:
        return assets.list_models(
            connection, call.workspace, query.get("name"), query.get("run_id"), query.get("latest") == "1"
        )


def get_model(call: Call) -> Model:
    """By name and version."""
    version = call.integer("version", 0)
    with call.parts.database.read() as connection:
        return assets.get_model(connection, call.workspace, call.path["name"], version or None)


def read_model_file(call: Call) -> Content:
    """One file of a model."""
    model = _model(call)
    for one in model.files:
        if one.path == call.path["path"]:
            return Content(file=call.parts.store.open(one.digest), size_bytes=one.size_bytes)
    raise NotFoundError("Model {} has no file {!r}.".format(model.id, call.path["path"][:200]))


def change_model(call: Call) -> Model:
    """Change its labels."""
    change: LabelChange = call.body
    version = _version(call)
    return call.parts.database.write(
        lambda c: assets.change_model(c, call.workspace, call.path["name"], version, change)
    )


def delete_model(call: Call) -> None:
    """Delete one version."""
    version = _version(call)
    call.parts.database.write(lambda c: assets.delete_model(c, call.workspace, call.path["name"], version))


def _folder(call: Call) -> FolderDatastore:
    store = get_datastore(call)
    return FolderDatastore(call.parts.datastores_folder / call.workspace / store.name)


def _check_source(call: Call, source: Source) -> None:
    kinds = [one for one in (source.url, source.file, source.datastore) if one is not None]
    if len(kinds) != 1:
        raise UserErrorException("A dataset's source is a URL, a local path or a path of a datastore: exactly one.")
    if max(len(kinds[0]), len(source.path)) > SOURCE_CHARS_MAX:
        raise UserErrorException(f"A dataset's source has at most {SOURCE_CHARS_MAX} characters.")
    if source.url is not None:
        parts = urlsplit(source.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserErrorException(f"{source.url[:200]!r} is not a http or https address.")
    elif source.file is not None:
        if not source.file.startswith("/"):
            raise UserErrorException(f"A local source is an absolute path, not {source.file[:200]!r}.")
    else:
        with call.parts.database.read() as connection:
            assets.get_datastore(connection, call.workspace, source.datastore or "")
        if source.path.strip("/"):
            check_path(source.path.strip("/"))


def _curated(spec: EnvironmentSpec, workspace: Workspace) -> Environment:
    return Environment(spec.name, spec.version, workspace.name, spec, "runyard", workspace.created_at, is_curated=True)


def _run_files(call: Call, spec: ModelSpec) -> Tuple[str, List[Artifact]]:
    """The run's experiment, and its artifacts at the model's path, named from that path's last part on."""
    path = check_path((spec.path or "outputs").strip("/"))
    with call.parts.database.read() as connection:
        run = runs.get_run(connection, call.workspace, spec.run_id or "")
        found = [
            one
            for one in runs.list_artifacts(connection, run.id, path)
            if one.path == path or one.path.startswith(path + "/")
        ]
    if not found:
        raise ModelNotFoundException(
            f"Run {run.id} has no file or folder {path!r}; look at get_file_names().",
        )
    parent = path.rpartition("/")[0]
    skip = len(parent) + 1 if parent else 0
    return run.experiment, [Artifact(one.path[skip:], one.digest, one.size_bytes) for one in found]


def _sent_files(call: Call, spec: ModelSpec) -> List[Artifact]:
    if not 0 < len(spec.files) <= MODEL_FILES_MAX:
        raise UserErrorException(f"A model has 1 to {MODEL_FILES_MAX} files, not {len(spec.files)}.")
    present = call.parts.store.has([check_digest(one.digest) for one in spec.files])
    for one in spec.files:
        check_path(one.path)
        if one.digest not in present:
            raise NotFoundError(f"The content of {one.path!r} is not on the server; send it first.")
        if call.parts.store.size(one.digest) != one.size_bytes:
            raise IntegrityError(f"{one.path!r} has another size than its content.")
    return list(spec.files)


def _model(call: Call) -> Model:
    with call.parts.database.read() as connection:
        return assets.get_model(connection, call.workspace, call.path["name"], _version(call))


def _version(call: Call) -> int:
    text = call.path["version"]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UserErrorException(f"A version is a whole number, not {text[:40]!r}.")
    return int(text)
