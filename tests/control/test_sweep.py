"""What the sweep removes, and what it never touches."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.compute.local import LocalCompute
from runyard.control import runs as life
from runyard.control.sweep import ATTEMPT_KEPT_S, LOG_KEPT_S, UNFINISHED_KEPT_S, Sweeper
from runyard.db import experiments, runs, workspaces
from runyard.db.engine import Database
from runyard.files.layout import folder_name
from runyard.files.processes import identity
from runyard.protocol.digests import CHUNK_BYTES
from runyard.protocol.plan import NodeFacts
from runyard.protocol.runs import Artifact, RunError, RunSpec
from runyard.protocol.wire import dumps
from runyard.protocol.workspaces import WorkspaceSpec
from runyard.storage.local import LocalStore
from tests.control.decided import assign, queue

NOW = 1_000_000_000.0
LONG_AGO = NOW - 10 * ATTEMPT_KEPT_S


class Stage:
    """A home as a server leaves it, with one run that is active and one that ended long ago."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("logs", "runs", "cache/envs", "cache/kits", "tmp", "store/uploads", "store/tmp"):
            (home / name).mkdir(parents=True)
        self.database = Database(home / "runyard.db")
        self.compute = LocalCompute(home / "runs", NodeFacts(str(home / "cache"), None, None, None, "", "local"))
        self.sweeper = Sweeper(self.database, self.compute, home)
        self.do(lambda c: workspaces.create_workspace(c, WorkspaceSpec("ws"), "ann", 1))
        self.do(lambda c: experiments.create_experiment(c, "ws", "trial", "ann", 1))
        for run_id in ("active", "ended"):
            self.add_run(run_id)
        self.do(lambda c: life.fail(c, "ended", RunError("SystemError", "lost"), int(LONG_AGO * 1e6)))

    def add_run(self, run_id: str) -> None:
        self.do(lambda c: runs.create_run(c, RunSpec(run_id, "trial", script="t.py"), "ws", "a", 1))
        self.do(lambda c: queue(c, run_id, "lock", "waits", 1))
        self.do(lambda c: assign(c, run_id, "", "secret of " + run_id, 1))

    def do(self, operation: object) -> None:
        self.database.write(operation)  # type: ignore[arg-type]

    def write(self, path: str, age_s: float = 0.0) -> Path:
        """A file below the home that old, with its folder."""
        found = self.home / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text("content")
        for one in (found, found.parent):
            os.utime(one, (NOW - age_s, NOW - age_s))
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path / "home")
    yield found
    found.database.close()


def test_log_of_an_ended_run_goes_once_its_record_holds_it(stage: Stage) -> None:
    stored, only_here = stage.write("logs/ended/user_logs/std_log.txt"), stage.write("logs/ended/azureml-logs/20.txt")
    growing = stage.write("logs/active/user_logs/std_log.txt")
    with stage.database.read() as connection:
        row = runs.find_row(connection, "ended")
    artifact = Artifact("user_logs/std_log.txt", "sha256:" + "0" * 64, 7)
    stage.do(lambda c: runs.add_artifacts(c, row, [artifact], "a", 1))
    stage.sweeper.sweep(LONG_AGO + LOG_KEPT_S - 1)
    assert stored.exists(), "somebody may still follow it"
    stage.sweeper.sweep(NOW)
    assert (stored.parent.exists(), only_here.exists(), growing.exists()) == (False, True, True)


@pytest.mark.parametrize("size_bytes", [7, CHUNK_BYTES * 2 + 5])
def test_log_that_nobody_has_stored_comes_to_the_record(tmp_path: Path, size_bytes: int) -> None:
    """Of a machine that was lost, or after the run's end: it lay on the server's disk for ever, and nowhere else."""
    stage, store = Stage(tmp_path / "home"), LocalStore(tmp_path / "home" / "store")
    stage.sweeper = Sweeper(stage.database, stage.compute, stage.home, store)
    content = (b"heard of it\n" * (size_bytes // 12 + 1))[:size_bytes]
    log, odd = stage.write("logs/ended/user_logs/std_log.txt"), stage.write("logs/ended/elsewhere/x.txt")
    log.write_bytes(content)
    stage.sweeper.sweep(LONG_AGO + LOG_KEPT_S - 1)
    assert log.exists(), "more of it may come"
    stage.sweeper.sweep(NOW)
    with stage.database.read() as connection:
        (found,) = runs.list_artifacts(connection, "ended")
    assert (found.path, found.size_bytes, store.read(found.digest)) == ("user_logs/std_log.txt", size_bytes, content)
    assert (log.exists(), odd.exists()) == (False, True)
    stage.database.close()


def test_log_of_a_run_goes_whose_id_is_longer_than_its_folders_name(stage: Stage) -> None:
    run_id = "sweep-" + "x" * 300
    for one in (run_id, run_id + "y"):
        stage.add_run(one)
    stage.do(lambda c: life.fail(c, run_id, RunError("SystemError", "lost"), int(LONG_AGO * 1e6)))
    ended, active = (stage.write(f"logs/{folder_name(one)}/user_logs/std_log.txt") for one in (run_id, run_id + "y"))
    with stage.database.read() as connection:
        row = runs.find_row(connection, run_id)
    artifact = Artifact("user_logs/std_log.txt", "sha256:" + "0" * 64, 7)
    stage.do(lambda c: runs.add_artifacts(c, row, [artifact], "a", 1))
    stage.sweeper.sweep(NOW)
    assert (ended.parent.parent.exists(), active.exists()) == (False, True)


def test_attempt_without_a_record_keeps_its_folder_for_a_week(stage: Stage) -> None:
    young = stage.write("runs/ended/1/outputs/model.bin")
    os.utime(stage.home / "runs/ended/1", (NOW - ATTEMPT_KEPT_S + 60,) * 2)
    stage.sweeper.sweep(NOW)
    assert young.exists()
    os.utime(stage.home / "runs/ended/1", (NOW - ATTEMPT_KEPT_S - 60,) * 2)
    stage.sweeper.sweep(NOW)
    assert not (stage.home / "runs/ended").exists()


def test_attempt_that_is_active_or_alive_is_left_alone(stage: Stage) -> None:
    active = stage.write("runs/active/1/source/t.py", 2 * ATTEMPT_KEPT_S)
    alive = stage.write("runs/ended/1/runner.json", 2 * ATTEMPT_KEPT_S)
    alive.write_text(dumps(identity(os.getpid())))
    for folder in (stage.home / "runs/active/1", stage.home / "runs/ended/1"):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    stage.sweeper.sweep(NOW)
    assert (active.exists(), alive.exists()) == (True, True)


@pytest.mark.parametrize("path", ["tmp/a", "store/tmp/a", "store/uploads/a", "cache/kits/.making-a/file"])
def test_what_was_given_up_half_way_goes_after_a_day(stage: Stage, path: str) -> None:
    old = stage.write(path, UNFINISHED_KEPT_S + 60)
    stage.sweeper.sweep(NOW)
    assert not old.exists()
    young = stage.write(path, UNFINISHED_KEPT_S - 60)
    stage.sweeper.sweep(NOW)
    assert young.exists()


def test_sweeper_ends_at_once(stage: Stage) -> None:
    stage.sweeper.start()
    began = time.monotonic()
    stage.sweeper.stop()
    stage.sweeper.join(10)
    assert time.monotonic() - began < 10
