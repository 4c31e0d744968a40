"""Prepares revisions of services: their files, their environment, and what their processes are told."""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List, Tuple

from sqlalchemy import Row

from runyard.compute.service_host import ServiceHost
from runyard.control.builds import Builds
from runyard.control.service_plan import (
    Choice,
    ServingFacts,
    compiled_key,
    framework_environment,
    make_revision,
    make_revision_elsewhere,
    model_folder,
    run_environment,
)
from runyard.control.service_runs import run_pattern, store_snapshot
from runyard.db import fleet, models, runs
from runyard.db.engine import Database
from runyard.environments.kit import compile_kit, find_kit
from runyard.environments.realise import environment_folder, realise
from runyard.environments.resolve import user_interpreter
from runyard.environments.uv import find_uv
from runyard.errors import ServiceException
from runyard.files.layout import write_atomically
from runyard.protocol.environments import Builder, EnvironmentSpec, Lock, spec_digest
from runyard.protocol.models import Model
from runyard.protocol.scoring import PROGRAM_FILE, PROGRAM_FORMAT
from runyard.protocol.services import REVISION_FILE, RUN_FILE, Revision, ServiceSpec, is_inline
from runyard.protocol.trees import decode_tree
from runyard.protocol.wire import dumps, loads
from runyard.storage.base import ArtifactStore

#: Between two looks at an environment that is being built, seconds.
BUILD_STEP_S = 0.2


class Preparation:
    """What is done for a revision before its processes begin, on a thread beside the loop."""

    def __init__(
        self, database: Database, host: ServiceHost, builds: Builds, store: ArtifactStore, kit: Callable[[], str],
        facts: ServingFacts, say_reason: Callable[[Row[Any], str], None], is_needed: Callable[[str], bool],
    ) -> None:  # fmt: skip
        """``say_reason`` shows what a service waits for; ``is_needed`` tells whether anybody waits for one still."""
        self._database, self._host, self._builds, self._store = database, host, builds, store
        self._kit, self._facts, self._say_reason, self._is_needed = kit, facts, say_reason, is_needed

    def prepared(self, row: Row[Any]) -> Revision:
        """Lay the row's revision out. Idempotent: where a server was killed meanwhile, the next one does it again."""
        spec = loads(ServiceSpec, row.spec)
        found = self._models(row, spec)
        folder = self._host.revision_folder(row.id, row.revision)
        shutil.rmtree(folder, ignore_errors=True)
        app = folder / "app"
        app.mkdir(parents=True)
        self._place(spec, found, app)
        choice = self._choose(spec, found)
        if spec.deployment.target:
            return self._prepared_elsewhere(row, spec, found, choice, folder)
        compiled, is_there = self._compiled(spec, found, choice)
        kit = find_kit(str(Path(self._facts.cache) / "kits"), self._kit())
        if is_there:
            # Compiled before: numpy, which this server has, is all that it takes.
            interpreter, readable = sys.executable, _prefixes(sys.executable)
        else:
            self._host.say(row.id, f"environment: {choice.why}")
            interpreter, readable = self._environment(row, choice.spec)
        compile_kit(kit, interpreter)
        revision = make_revision(
            row.revision, spec, found, str(folder), interpreter, kit.folder, self._facts.isolation,
            self._facts.hidden, (*readable, kit.folder), compiled,
            next((one for one in readable if one.startswith(os.path.join(self._facts.cache, "envs"))), ""),
        )  # fmt: skip
        revision = replace(revision, program_format=PROGRAM_FORMAT, needs_program=is_there)
        write_atomically(folder / REVISION_FILE, dumps(revision).encode(), mode=0o600)
        return revision

    def _prepared_elsewhere(
        self, row: Row[Any], spec: ServiceSpec, found: List[Model], choice: Choice, folder: Path
    ) -> Revision:
        """Where replicas are runs of a cluster, their environment is built for those, and no model is compiled."""
        self._host.say(row.id, f"environment: {choice.why}")
        if spec.entry is None:
            self._host.say(row.id, f"the original model serves: its replicas are runs of {spec.deployment.target!r}")
        revision = make_revision_elsewhere(
            row.revision, spec, found, str(folder), sys.executable, self._facts.isolation, self._facts.hidden
        )  # fmt: skip
        pattern = run_pattern(spec, row.revision, choice.spec, store_snapshot(self._store, spec, found))
        write_atomically(folder / RUN_FILE, dumps(pattern).encode(), mode=0o600)
        write_atomically(folder / REVISION_FILE, dumps(revision).encode(), mode=0o600)
        return revision

    def _models(self, row: Row[Any], spec: ServiceSpec) -> List[Model]:
        found = []
        with self._database.read() as connection:
            for one in spec.models:
                name, _, version = one.rpartition(":")
                found.append(models.get_model(connection, row.workspace, name, int(version)))
        return found

    def _place(self, spec: ServiceSpec, found: List[Model], app: Path) -> None:
        """The script's folder, and the models where v1 has them."""
        if spec.entry is not None:
            for entry in decode_tree(self._store.read(spec.entry.snapshot)).entries:
                self._copy(entry.digest, app.joinpath(*entry.path.split("/")))
        for model in found:
            folder = Path(model_folder(str(app), model))
            for one in model.files:
                self._copy(one.digest, folder.joinpath(*one.path.split("/")))

    def _copy(self, digest: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._store.open(digest) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def _choose(self, spec: ServiceSpec, found: List[Model]) -> Choice:
        if spec.entry is not None:
            return Choice(spec.entry.environment, "that of the InferenceConfig")
        model = found[0]
        by_framework = framework_environment(model)
        if model.run_id is not None:
            with self._database.read() as connection:
                row = runs.find_row(connection, model.run_id)
                lock = fleet.get_lock(connection, row.lock) if row is not None and row.lock else None
                asked = runs.get_environment(connection, model.run_id)[0] if row is not None else None
            if asked is not None:
                chosen = run_environment(model, asked, lock or Lock(digest=""))
                if chosen is not None:
                    return chosen
                lacks = f", since that of the run {model.run_id} has no {model.framework}"
                return replace(by_framework, why=by_framework.why + lacks)
        return by_framework

    def _compiled(self, spec: ServiceSpec, found: List[Model], choice: Choice) -> Tuple[str, bool]:
        """(folder of the compiled model, is it there already?); '' where a script answers."""
        if spec.entry is not None:
            return "", False
        folder = Path(self._facts.cache) / "compiled" / compiled_key(found[0], spec_digest(choice.spec))
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder), (folder / PROGRAM_FILE).exists()

    def _environment(self, row: Row[Any], spec: EnvironmentSpec) -> Tuple[str, Tuple[str, ...]]:
        """(interpreter, what it is made of), built first where this host does not have it."""
        if spec.python.user_managed:
            interpreter = user_interpreter(spec.python.interpreter_path)
            return interpreter, _prefixes(interpreter)
        self._say_reason(row, "Its environment is being built.")
        self._builds.forget(spec)
        while True:
            state = self._builds.request(spec)
            if state.state in ("ready", "failed"):
                break
            if not self._is_needed(row.id):
                raise ServiceException("Nobody waits for it any more, or the next server goes on.")
            time.sleep(BUILD_STEP_S)
        self._builds.forget(spec)
        lock = state.lock
        if state.state == "failed" or lock is None:
            raise ServiceException(f"Its environment could not be built: {state.error}")
        for note in lock.notes:
            self._host.say(row.id, f"environment: {note.asked} -> {note.got or 'left out'} ({note.why})")
        if lock.builder == Builder.DOCKER:
            raise ServiceException(
                "Its environment is an image; services run in environments of conda files and pip packages: take "
                "base_image and base_dockerfile out of the Environment."
            )
        cache = self._facts.cache
        made = realise(self._builds.open_lock(lock), cache, uv=find_uv(), log=lambda _: None)
        return made.interpreter, (environment_folder(lock, cache), *_prefixes(made.interpreter))

    def how(self, row: Row[Any]) -> str:
        """What answers by it: a script, the original model or the compiled one, and where."""
        spec = loads(ServiceSpec, row.spec)
        if spec.entry is not None:
            return f"script {spec.entry.script}"
        if spec.deployment.target:
            return "the original model"
        revision = _told(self._host.revision_folder(row.id, row.revision))
        folder = Path(revision.scoring.get("compiled_folder", ""))
        if (folder / PROGRAM_FILE).exists():
            return "compiled, inside the front" if is_inline(spec.deployment) else "compiled"
        return "the original model"


def is_whole(folder: Path) -> bool:
    """Is all still there that a revision needs? While no supervisor holds its environment, it may be pruned."""
    revision = _told(folder)
    return os.path.exists(revision.interpreter) and _has_program(revision)


def has_program(folder: Path) -> bool:
    """Is the compiled model still there, of this format, where a revision relies on it? It lies in the cache."""
    return _has_program(_told(folder))


def _told(folder: Path) -> Revision:
    return loads(Revision, (folder / REVISION_FILE).read_text("utf-8"))


def _has_program(revision: Revision) -> bool:
    compiled = revision.scoring.get("compiled_folder")
    if not compiled:
        return True
    if revision.program_format != PROGRAM_FORMAT:
        return False
    needs_it = revision.interpreter == sys.executable if revision.needs_program is None else revision.needs_program
    return not needs_it or os.path.exists(os.path.join(compiled, PROGRAM_FILE))


def _prefixes(interpreter: str) -> Tuple[str, ...]:
    """The folders of an interpreter: of the environment, and of the Python that it was made from."""
    return tuple({os.path.dirname(os.path.dirname(one)) for one in (interpreter, os.path.realpath(interpreter))})
