"""Models."""

from typing import List, Optional, Tuple

from runyard.db import models, runs
from runyard.errors import ModelNotFoundException, NotFoundError, UserErrorException
from runyard.protocol.identity import PrincipalKind
from runyard.protocol.models import Model, ModelChange, ModelSpec, ResourceNeeds
from runyard.protocol.runs import Artifact
from runyard.protocol.trees import Tree, TreeEntry, check_distinct, check_path, encode_tree
from runyard.server import names
from runyard.server.call import Call, Content
from runyard.server.contents import check_contents
from runyard.server.needs import check_needs

#: Most files of a model.
MODEL_FILES_MAX = 100_000


def register_model(call: Call) -> Model:
    """A run's files, or contents sent before, as a model's next version; copies nothing."""
    spec: ModelSpec = call.body
    names.check_asset_name(spec.name)
    is_run = call.principal is not None and call.principal.kind == PrincipalKind.RUN
    if is_run and call.principal is not None and spec.run_id != call.principal.run_id:
        raise UserErrorException("A run registers models from its own files only.")
    if spec.run_id is not None and spec.files and not is_run:
        raise UserErrorException("A model comes from a run's record or from files that were sent, not from both.")
    if spec.framework_version is not None and spec.framework == "Custom":
        raise UserErrorException("A framework_version needs a framework.")
    _check_needs(spec.resources)
    experiment: Optional[str]
    if spec.run_id is not None and not spec.files:
        names.check_run_id(spec.run_id)
        experiment, files = _run_files(call, spec)
    else:
        experiment, files = _run_experiment(call, spec), _sent_files(call, spec)
    entries = tuple(TreeEntry(one.path, one.digest, one.size_bytes) for one in files)
    made = Tree(tuple(sorted(entries, key=lambda entry: entry.path)))
    check_distinct(made)
    (tree,) = call.parts.store.put_many([encode_tree(made)])
    return call.parts.database.write(
        lambda c: models.register_model(c, spec, files, tree, experiment, call.workspace, call.user, call.now)
    )


def list_models(call: Call) -> List[Model]:
    """By name, newest first."""
    query = call.query
    with call.parts.database.read() as connection:
        return models.list_models(
            connection, call.workspace, query.get("name"), query.get("run_id"), query.get("latest") == "1"
        )


def get_model(call: Call) -> Model:
    """By name and version."""
    version = call.integer("version", 0)
    with call.parts.database.read() as connection:
        return models.get_model(connection, call.workspace, call.path["name"], version or None)


def read_model_file(call: Call) -> Content:
    """One file of a model."""
    model = _model(call)
    for one in model.files:
        if one.path == call.path["path"]:
            return Content(file=call.parts.store.open(one.digest), size_bytes=one.size_bytes)
    raise NotFoundError("Model {} has no file {!r}.".format(model.id, call.path["path"][:200]))


def change_model(call: Call) -> Model:
    """Change its labels, what it asks for, or which datasets it came from."""
    change: ModelChange = call.body
    version = _version(call)
    _check_needs(change.resources)
    return call.parts.database.write(
        lambda c: models.change_model(c, call.workspace, call.path["name"], version, change)
    )


def delete_model(call: Call) -> None:
    """Delete one version."""
    version = _version(call)
    call.parts.database.write(lambda c: models.delete_model(c, call.workspace, call.path["name"], version))


def _check_needs(needs: Optional[ResourceNeeds]) -> None:
    """UserErrorException for what no service could be given."""
    if needs is not None:
        whose = "A resource_configuration's"
        amounts = {f"{whose} cpu": needs.cpu, f"{whose} memory_in_gb": needs.memory_in_gb}
        check_needs(amounts, {f"{whose} gpu": needs.gpu})


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


def _run_experiment(call: Call, spec: ModelSpec) -> Optional[str]:
    """The experiment of the run that sent the files; None where a user did."""
    if spec.run_id is None:
        return None
    with call.parts.database.read() as connection:
        return runs.get_run(connection, call.workspace, spec.run_id).experiment


def _sent_files(call: Call, spec: ModelSpec) -> List[Artifact]:
    if not 0 < len(spec.files) <= MODEL_FILES_MAX:
        raise UserErrorException(f"A model has 1 to {MODEL_FILES_MAX} files, not {len(spec.files)}.")
    check_contents(call.parts.store, spec.files)
    return list(spec.files)


def _model(call: Call) -> Model:
    with call.parts.database.read() as connection:
        return models.get_model(connection, call.workspace, call.path["name"], _version(call))


def _version(call: Call) -> int:
    text = call.path["version"]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UserErrorException(f"A version is a whole number, not {text[:40]!r}.")
    return int(text)
