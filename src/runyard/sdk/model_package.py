"""ModelPackage: a service as a folder with a Dockerfile, for hosts where no Runyard server is."""

import os
import re
import shutil
import sys
import tempfile
import weakref
from typing import Dict, List, Optional, Sequence, Tuple

from runyard.client.home import home_folder
from runyard.errors import WebserviceException
from runyard.protocol.environments import Builder, CondaSpec, EnvironmentSpec, Lock, PythonSpec
from runyard.protocol.scoring import requirements_of
from runyard.protocol.services import REVISION_FILE, WANTED_FILE, Revision, Wanted, process_variables
from runyard.protocol.wire import dumps
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.workspace import Workspace

#: Where the service listens in its image, as v1's did.
PORT = 5001
_PYTHON = "/opt/model/bin/python"
_DOCKERFILE = """# An image with Python 3.11 or newer and pip.
ARG BASE=python:3.11-slim
FROM ${{BASE}}
# What pip installs: a certain release, or a wheel beside this file, as /opt/<its name>[server].
ARG RUNYARD="runyard[server]"
COPY requirements.txt *.whl /opt/
RUN pip install --no-cache-dir "${{RUNYARD}}"
RUN uv venv /opt/model --python {python} \\
    && uv pip install --python {program} --compile-bytecode{as_of} --requirements /opt/requirements.txt
COPY service/ /opt/service/
EXPOSE {port}
CMD ["python", "-m", "runyard.serving", "/opt/service"]
"""


#: What engines take as an image's name, and as its label.
_IMAGE_NAME = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")
_IMAGE_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ModelPackage:
    """What ``Model.package`` has written, in a folder that goes with this object; ``save`` copies it to stay."""

    def __init__(self, folder: str, name: str) -> None:
        self.location = folder
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.state = "Succeeded"
        self.package_build_log_uri = None
        self._name = name

    def wait_for_creation(self, show_output: bool = False) -> None:
        """Nothing is waited for: the folder is there."""
        if show_output:
            sys.stdout.write(f"Package creation Succeeded: {self._next()}\n")

    def save(self, output_directory: str) -> None:
        """Copy the folder: Dockerfile, requirements.txt, service/. WebserviceException where one is there already."""
        names = os.listdir(self.location)
        for name in names:
            if os.path.lexists(os.path.join(output_directory, name)):
                raise WebserviceException(f"{output_directory!r} has a {name!r} already; save() takes a new folder.")
        for name in names:
            source, target = os.path.join(self.location, name), os.path.join(output_directory, name)
            if os.path.isdir(source):
                shutil.copytree(source, target)
            else:
                os.makedirs(output_directory, exist_ok=True)
                shutil.copy(source, target)

    def get_logs(self) -> str:
        """Nothing was built here."""
        return ""

    def pull(self) -> None:
        """WebserviceException: no registry has it."""
        raise WebserviceException(f"No registry has this image; build it: {self._next()}")

    def _next(self) -> str:
        return f"save('image') writes it, and docker build -t {self._name} image builds it"


def write_package(
    workspace: Workspace,
    models: Sequence[Model],
    inference_config: Optional[InferenceConfig],
    image_name: Optional[str],
    image_label: Optional[str],
) -> ModelPackage:
    """Write models, script, pinned packages and Dockerfile into a folder of their own."""
    # Not at the top: a deployment imports what this module does.
    from runyard.sdk.deployment import check_models, check_no_code

    name, label = image_name or "service", image_label or "1"
    for text, known, what in ((name, _IMAGE_NAME, "image_name"), (label, _IMAGE_LABEL, "image_label")):
        if not (isinstance(text, str) and known.fullmatch(text)):
            raise WebserviceException(f"{what} is what docker build -t takes, as in digits:1, and {text!r} is not.")
    found = check_models(models)
    if inference_config is None:
        check_no_code(found)
    lock = _resolved(found, inference_config)
    folder = tempfile.mkdtemp(prefix="runyard-package-")
    made = ModelPackage(folder, f"{name}:{label}")
    _fill(folder, found, inference_config, lock)
    return made


def _fill(folder: str, found: List[Model], inference_config: Optional[InferenceConfig], lock: Lock) -> None:
    """Write the package's files."""
    # No environments are in a job's kit.
    from runyard.environments.kit import make_kit

    revision = os.path.join(folder, "service", "revisions", "1")
    app = os.path.join(revision, "app")
    for one in found:
        one.download(os.path.join(app, "azureml-models", one.name, str(one.version)))
    if inference_config is not None:
        _copy_script(inference_config, app)
    os.makedirs(app, exist_ok=True)
    # Nothing but the kit: beside the server's own packages the model's would not be found.
    shutil.copytree(make_kit(str(home_folder() / "cache" / "kits")).folder, os.path.join(revision, "kit"))
    as_of = f" --exclude-newer {lock.as_of}" if lock.as_of else ""
    values = {"python": lock.python or "3.11", "program": _PYTHON, "as_of": as_of, "port": PORT}
    _write(os.path.join(folder, "Dockerfile"), _DOCKERFILE.format(**values))
    _write(os.path.join(folder, "requirements.txt"), "\n".join([*lock.options, *lock.requirements]) + "\n")
    made = _revision(found, inference_config)
    _write(os.path.join(revision, REVISION_FILE), dumps(made))
    _write(os.path.join(folder, "service", WANTED_FILE), dumps(Wanted(1, 0, "0.0.0.0", PORT)))


def _resolved(models: List[Model], config: Optional[InferenceConfig]) -> Lock:
    """The packages that the model or script needs, pinned."""
    # Not in a job: its kit has no environments.
    from runyard.environments.resolve import resolve
    from runyard.environments.uv import find_uv, uv_cache_folder

    if config is not None:
        spec = config.build_environment()._spec()
    else:
        pip = requirements_of(models[0].model_framework, models[0].model_framework_version)
        spec = EnvironmentSpec(python=PythonSpec(conda=CondaSpec(pip=pip)))
    root = str(home_folder() / "cache")
    lock = resolve(spec, uv=find_uv(), cache_folder=uv_cache_folder(root), log=lambda _: None, root_folder=root)
    if lock.builder != Builder.UV:
        raise WebserviceException(
            "A package holds what pip installs: give the environment as a conda file or pip list."
        )
    return lock


def _copy_script(config: InferenceConfig, app: str) -> None:
    from runyard.files.snapshots import take_snapshot

    snapshot = take_snapshot(config._folder(), str(home_folder() / "cache" / "snapshots"))
    for entry in snapshot.tree.entries:
        target = os.path.join(app, *entry.path.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(os.path.join(config._folder(), *entry.path.split("/")), target)


def _revision(models: List[Model], config: Optional[InferenceConfig]) -> Revision:
    """As a server would have it, with paths relative to the revision's folder."""
    first = models[0] if models else None
    name, version = (first.name, str(first.version)) if first is not None else ("service", "1")
    of_models = "/".join(("azureml-models", *((name, version) if len(models) == 1 else ())))
    scoring, framework = _scoring(models, config)
    script, given = (
        ("", {}) if config is None else (config._script_name(), config.build_environment()._spec().variables)
    )
    needs = first.resource_configuration if first is not None and len(models) == 1 else None
    variables = process_variables("{app}", "{kit}", "{app}/" + of_models, script, given, needs.cpu if needs else None)
    return Revision(
        number=1, service=name, model=name, model_version=version, scoring=scoring, interpreter=_PYTHON, work="app",
        variables={"PATH": "/opt/model/bin:/usr/local/bin:/usr/bin:/bin", **variables},
        framework=framework,
    )  # fmt: skip


def _scoring(models: List[Model], config: Optional[InferenceConfig]) -> Tuple[Dict[str, str], str]:
    if config is not None:
        return {"entry_script": "app/" + config._script_name()}, "Custom"
    (model,) = models
    tops = {one.path.split("/")[0] for one in model._record.files}
    parts = ["app", "azureml-models", model.name, str(model.version), *(tops if len(tops) == 1 else ())]
    return {"framework": model.model_framework, "model": "/".join(parts)}, model.model_framework


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
