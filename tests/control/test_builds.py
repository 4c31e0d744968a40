"""Environments on their way: one failure is told to all who waited, and no run's log is lost to a later build."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.compute.engines import Engines
from runyard.compute.local import LocalCompute
from runyard.compute.remote import Reach
from runyard.control.builds import Builds
from runyard.control.environment_files import EnvironmentFiles
from runyard.control.loop import Loop
from runyard.control.sealing import Sealer
from runyard.db import experiments, runs, workspaces
from runyard.db.engine import Database
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, PythonSpec
from runyard.protocol.plan import NodeFacts
from runyard.protocol.runs import RunSpec, RunStatus
from runyard.protocol.workspaces import WorkspaceSpec
from runyard.storage.sealing import HostSeal

NOW = 1_000
#: It asks for what no index has to be asked about.
IMPOSSIBLE = EnvironmentSpec("impossible", python=PythonSpec(conda=CondaSpec(pip=("this is no requirement",))))


class Stage:
    """A loop that moves when it is told to, with what is real beside it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.changes: list[float] = []
        self.database = Database(home / "runyard.db")
        sealer = Sealer(HostSeal(home / "vault.key"))
        self.builds = Builds(
            self.database,
            home / "builds",
            home / "cache",
            sealer,
            EnvironmentFiles(home / "environment-files"),
            lambda: self.changes.append(time.monotonic()),
        )
        compute = LocalCompute(home / "runs", NodeFacts(str(home / "cache"), None, None, None, "", "local"))
        seal = HostSeal(home / "vault.key")
        reach = Reach(lambda: "", home / "node-files", "mark", "trusted", home / "hosts", seal.seal, seal.open)
        engines = Engines(compute, reach)
        self.loop = Loop(
            self.database, engines, self.builds, lambda: "kit", home / "logs", 2, True, lambda _run_id: None
        )
        self.database.write(lambda c: workspaces.create_workspace(c, WorkspaceSpec("ws"), "ann", NOW))
        self.database.write(lambda c: experiments.create_experiment(c, "ws", "trial", "ann", NOW))

    def submit(self, run_id: str) -> None:
        spec = RunSpec(run_id, "trial", script="train.py", environment=IMPOSSIBLE)
        self.database.write(lambda c: runs.create_run(c, spec, "ws", "ann", NOW))

    def tick_until_failed(self, *run_ids: str) -> None:
        ends_at = time.monotonic() + 30
        while any(self.status(one) != RunStatus.FAILED for one in run_ids):
            assert time.monotonic() < ends_at
            self.loop.tick(is_full=False)
            time.sleep(0.02)

    def status(self, run_id: str) -> str:
        with self.database.read() as connection:
            return runs.get_run(connection, "ws", run_id).status

    def build_log(self, run_id: str) -> Path:
        return self.home / "logs" / run_id / "azureml-logs" / "20_image_build_log.txt"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path)
    yield found
    found.builds.close()
    found.database.close()


def test_environment_that_fails_is_tried_once_for_all_who_wait(stage: Stage) -> None:
    for number in range(5):
        stage.submit(f"run-{number}")
    stage.tick_until_failed(*(f"run-{number}" for number in range(5)))
    stage.loop.tick(is_full=False)
    assert len(stage.changes) == 1, "one resolution, whose end was told once"


def test_next_submission_tries_again_and_leaves_the_earlier_log_alone(stage: Stage) -> None:
    stage.submit("first")
    stage.tick_until_failed("first")
    before = stage.build_log("first").read_text()
    assert before
    stage.submit("second")
    stage.tick_until_failed("second")
    assert len(stage.changes) == 2
    assert stage.build_log("first").read_text() == before
    assert not stage.build_log("second").samefile(stage.build_log("first"))
