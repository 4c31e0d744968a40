"""Clusters that are stopped, drained and deleted while runs use them, by the command line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("cli")]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terminal")


@pytest.fixture(scope="module")
def runyard(folder: Path) -> Iterator[Call]:
    variables = {**os.environ, "RUNYARD_HOME": str(folder / "home")}

    def run(*words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "runyard.cli", *words]
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    run("workspace", "create", "terminal")
    yield run
    run("down")


@pytest.fixture
def submit(runyard: Call, folder: Path) -> Callable[..., str]:
    """Submits a script that waits for a file, to a target; returns the run's id."""

    def submit(target: str, go: Path) -> str:
        (folder / "waits").mkdir(exist_ok=True)
        text = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
        (folder / "waits" / "train.py").write_text(text)
        told = runyard("run", "submit", "waits", "--target", target, "--json")
        return str(json.loads(told.stdout)["id"])

    return submit


def status(runyard: Call, run: str) -> str:
    return str(json.loads(runyard("run", "show", run, "--json").stdout)["run"]["status"])


def wait_for(runyard: Call, run: str, wanted: str) -> None:
    ends_at = time.monotonic() + 90
    while (found := status(runyard, run)) != wanted:
        assert time.monotonic() < ends_at, found


def test_stopped_cluster_lets_no_run_begin_until_it_is_started(
    runyard: Call, submit: Callable[..., str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    runyard("compute", "create", "pool", "--max-nodes", "1", "--priority", "lowpriority")
    first = submit("pool", go)
    wait_for(runyard, first, "Running")
    assert "(1 node leaves when its run has ended)" in runyard("compute", "stop", "pool").stdout
    second = submit("pool", go)
    wait_for(runyard, second, "Queued")
    ends_at = time.monotonic() + 30
    while "is stopped, to be started" not in (why := runyard("why", second).stdout):
        assert time.monotonic() < ends_at, why
    assert "runyard compute start pool" in why
    assert status(runyard, first) == "Running"
    runyard("compute", "stop", "pool", "--now")
    wait_for(runyard, first, "Queued")
    runyard("compute", "start", "pool")
    wait_for(runyard, first, "Running")
    go.touch()
    for run in (first, second):
        wait_for(runyard, run, "Completed")


def test_cluster_in_use_is_deleted_by_force_with_its_runs_canceled(
    runyard: Call, submit: Callable[..., str], tmp_path: Path
) -> None:
    runyard("compute", "create", "forced", "--max-nodes", "1")
    runs = [submit("forced", tmp_path / "never") for _ in range(2)]
    wait_for(runyard, runs[0], "Running")
    assert "is in use by" in runyard("compute", "delete", "forced", code=1).stderr
    assert "forced deleted" in runyard("compute", "delete", "forced", "--force").stdout
    assert [status(runyard, run) for run in runs] == ["Canceled", "Canceled"]
    for run in runs:
        shown = runyard("run", "show", run, "--json").stdout
        assert shown.count("It was canceled with its compute target 'forced', which owner has deleted.") == 1
    assert "does not exist" in runyard("compute", "show", "forced", code=1).stderr


def test_drained_cluster_is_deleted_once_its_run_has_ended(
    runyard: Call, submit: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    runyard("compute", "create", "drained", "--max-nodes", "1")
    run = submit("drained", go)
    wait_for(runyard, run, "Running")
    command = [sys.executable, "-m", "runyard.cli", "compute", "delete", "drained", "--drain"]
    variables = {**os.environ, "RUNYARD_HOME": str(folder / "home")}
    with subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True) as deleting:
        assert deleting.stderr is not None
        assert f"drained is stopped; waits for {run}." in deleting.stderr.readline()
        go.touch()
        assert deleting.wait(60) == 0
    assert status(runyard, run) == "Completed"
