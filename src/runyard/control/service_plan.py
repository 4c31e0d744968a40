"""From a service as asked to what its processes are told: which environment, which files, which addresses. Pure."""

import hashlib
import os
import re
from dataclasses import replace
from typing import Dict, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, Lock, PythonSpec
from runyard.protocol.models import Model
from runyard.protocol.record import record
from runyard.protocol.scoring import (
    DISTRIBUTIONS,
    PROGRAM_FORMAT,
    THREADS_VARIABLE,
    full_version,
    requirements_of,
)
from runyard.protocol.services import ORIGINS_VARIABLE, Revision, ServiceSpec, process_variables

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._\-]*")


@record
class ServingFacts:
    """What of this server matters to its services."""

    #: What services listen on.
    host: str
    #: Name and scheme in the addresses that callers get.
    shown_host: str
    isolation: str
    home: str
    cache: str
    certificate: str = ""
    certificate_key: str = ""

    @property
    def hidden(self) -> Tuple[str, ...]:
        """The folders of which no process of a service sees more than its own."""
        return self.home, os.path.expanduser("~")

    @property
    def is_loopback(self) -> bool:
        """Are services reachable from this machine only?"""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @property
    def base(self) -> str:
        """The address without its port."""
        name = f"[{self.shown_host}]" if ":" in self.shown_host else self.shown_host
        return f"{'https' if self.certificate else 'http'}://{name}"


@record
class Choice:
    """An environment for a model, and why it is this one."""

    spec: EnvironmentSpec
    why: str


def check_models(spec: ServiceSpec, models: Sequence[Model]) -> None:
    """v1's rules for a deployment without code; UserErrorException says which is broken."""
    if spec.entry is not None:
        return
    if len(models) != 1:
        raise UserErrorException(f"A deployment without code takes exactly one model, not {len(models)}.")
    if models[0].framework not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise UserErrorException(
            f"Model {models[0].id} has the framework {models[0].framework!r}, which cannot be deployed without code; "
            f"register it with one of {known}, or give an InferenceConfig with an entry script."
        )


def framework_environment(model: Model) -> Choice:
    """What the model's framework and version ask for."""
    packages = requirements_of(model.framework, model.framework_version)
    spec = EnvironmentSpec(name=f"serving {model.framework}", python=PythonSpec(conda=CondaSpec(pip=packages)))
    return Choice(spec, f"by its framework: {packages[0]}")


def run_environment(model: Model, spec: EnvironmentSpec, lock: Lock) -> Optional[Choice]:
    """The environment of the run that made the model; None where it lacks the framework."""
    names = DISTRIBUTIONS.get(model.framework, ())
    if spec.python.user_managed:
        return Choice(spec, f"that of the run {model.run_id}, which its user manages")
    found = {_distribution(line): line for line in lock.requirements}
    present = next((found[name] for name in names if name in found), None)
    if present is None or lock.image is not None:
        return None
    why = f"that of the run {model.run_id}, with {present}"
    version = present.partition("==")[2]
    if model.framework_version and version and not _agrees(version, model.framework_version):
        why += f" (the model says {model.framework} {model.framework_version}; what trained it serves it)"
    return Choice(spec, why)


def compiled_key(model: Model, environment: str) -> str:
    """Names what was compiled: of the same files in the same environment it is the same."""
    text = "\n".join((str(PROGRAM_FORMAT), model.tree, model.framework, model.framework_version or "", environment))
    return hashlib.sha256(text.encode()).hexdigest()


def make_revision(
    number: int, spec: ServiceSpec, models: Sequence[Model], folder: str, interpreter: str, kit: str, isolation: str,
    hidden: Tuple[str, ...], readable: Tuple[str, ...], compiled: str, environment: str,
) -> Revision:  # fmt: skip
    """What the processes of one revision are told; ``compiled`` is the folder of the compiled model, '' for none."""
    app = os.path.join(folder, "app")
    model = models[0] if models else None
    scoring = {"compiled_folder": compiled} if compiled else {}
    if spec.entry is not None:
        scoring["entry_script"] = os.path.join(app, *spec.entry.script.split("/"))
    elif model is not None:
        scoring.update(framework=model.framework, model=model_path(app, model))
    return Revision(
        number=number,
        service=spec.name,
        model=model.name if model is not None else spec.name,
        model_version=str(model.version) if model is not None else "1",
        scoring=scoring,
        interpreter=interpreter,
        work=app,
        variables=_variables(app, spec, models, interpreter, kit),
        readable=readable,
        environment=environment,
        isolation=isolation,
        hidden=hidden,
        framework=model.framework if model is not None and spec.entry is None else "Custom",
        deployment=spec.deployment,
    )


def make_revision_elsewhere(
    number: int, spec: ServiceSpec, models: Sequence[Model], folder: str, interpreter: str, isolation: str,
    hidden: Tuple[str, ...],
) -> Revision:  # fmt: skip
    """As ``make_revision`` where replicas are runs of a cluster: paths are relative to a run's working folder.

    The processes of this host are the front alone, so ``interpreter`` is this server's.
    """
    made = make_revision(number, spec, models, folder, interpreter, "", isolation, hidden, (), "", "")
    app = os.path.join(folder, "app")
    names = (
        "AZUREML_MODEL_DIR", "AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT", "TF_CPP_MIN_LOG_LEVEL", ORIGINS_VARIABLE,
        THREADS_VARIABLE,
    )  # fmt: skip
    variables = {name: made.variables[name].replace(app, "{app}") for name in names if name in made.variables}
    scoring = {name: text[len(app) + 1 :] if text.startswith(app) else text for name, text in made.scoring.items()}
    return replace(made, variables=variables, scoring=scoring)


def model_folder(app: str, model: Model) -> str:
    """Where v1 has the files of a model."""
    return os.path.join(app, "azureml-models", model.name, str(model.version))


def model_path(app: str, model: Model) -> str:
    """The model's one file or folder, or the folder of them all."""
    tops = sorted({one.path.split("/")[0] for one in model.files})
    folder = model_folder(app, model)
    return os.path.join(folder, tops[0]) if len(tops) == 1 else folder


def _variables(app: str, spec: ServiceSpec, models: Sequence[Model], interpreter: str, kit: str) -> Dict[str, str]:
    folder = model_folder(app, models[0]) if len(models) == 1 else os.path.join(app, "azureml-models")
    script, given = "", {}
    if spec.entry is not None:
        script, given = spec.entry.script, spec.entry.environment.variables
    path = os.path.dirname(interpreter) + ":/usr/local/bin:/usr/bin:/bin"
    common = process_variables(app, kit, folder, script, given, spec.deployment.cpu)
    return {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **common}


def _agrees(found: str, said: str) -> bool:
    return found == said or found.startswith(said + ".") or full_version(said) == found


def _distribution(line: str) -> str:
    match = _NAME.match(line)
    return "" if match is None else match.group().lower().replace("_", "-")
