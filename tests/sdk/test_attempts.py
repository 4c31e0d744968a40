"""How often a run starts again when its machine is taken away: the user says, or the target's priority."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, RunConfiguration, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.exceptions import UserErrorException
from runyard.sdk.run_record import read_log
from tests.engines.engines import wait_until
from tests.own_server import own_server

pytestmark = pytest.mark.e2e

#: Waits to be evicted in its first attempt, and is done in the next.
SCRIPT = """
import os, time
if os.environ["AZUREML_RUN_ATTEMPT"] == "1":
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("attempts-home")):
        found = Workspace.create("attempts", exist_ok=True)
        for name in ("dedicated", "lowpriority"):
            config = AmlCompute.provisioning_configuration(vm_priority=name, max_nodes=2)
            ComputeTarget.create(found, name, config)
        yield found


def _config(folder: Path, target: str, **settings: Any) -> ScriptRunConfig:
    (folder / "script.py").write_text(SCRIPT)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    return ScriptRunConfig(str(folder), "script.py", compute_target=target, environment=environment, **settings)


def _evicted(workspace: Workspace, config: ScriptRunConfig) -> Run:
    """The run as it has ended, after an eviction in its first attempt."""
    run = Experiment(workspace, "attempts").submit(config)
    wait_until(lambda: run.get_status() == "Running", "the script runs")
    assert run.attempt == 1
    target = ComputeTarget(workspace, run.get_details()["target"])
    (node,) = [one["nodeId"] for one in target.list_nodes() if one["runId"] == run.id]
    workspace._call("remove_node", None, {"evict": 1}, name=target.name, node=node.rpartition("/")[2])
    run.wait_for_completion(raise_on_error=False)
    return run


@pytest.mark.parametrize(
    ("target", "retries", "status", "attempt"),
    [("dedicated", 1, "Completed", 2), ("lowpriority", 0, "Failed", 1), ("dedicated", None, "Failed", 1)],
)
def test_evicted_run_starts_again_as_often_as_the_user_says(
    workspace: Workspace, tmp_path: Path, target: str, retries: int | None, status: str, attempt: int
) -> None:
    run = _evicted(workspace, _config(tmp_path, target, max_infrastructure_retries=retries))
    assert (run.get_status(), run.attempt) == (status, attempt)


def test_retries_are_an_attribute_of_both_configurations_and_stand_in_the_file(tmp_path: Path) -> None:
    config = _config(tmp_path, "dedicated")
    assert config.max_infrastructure_retries is None
    config.max_infrastructure_retries = 4
    assert config.run_config.max_infrastructure_retries == 4
    config.run_config.save(str(tmp_path), "kept")
    assert RunConfiguration.load(str(tmp_path), "kept").max_infrastructure_retries == 4


@pytest.mark.parametrize(("asked", "says"), [(-1, "from 0 to 100, not -1"), ("often", "a whole number, not 'often'")])
def test_retries_that_are_no_count_are_refused(workspace: Workspace, tmp_path: Path, asked: Any, says: str) -> None:
    with pytest.raises(UserErrorException, match=says):
        Experiment(workspace, "attempts").submit(_config(tmp_path, "dedicated", max_infrastructure_retries=asked))


#: Says more in its first attempt than in the next ones; the last one is done at once.
BUILD_LOG = "azureml-logs/20_image_build_log.txt"
SPEAKS = """
import os, time
attempt = os.environ["AZUREML_RUN_ATTEMPT"]
print("this is attempt", attempt, "!" * 100 if attempt == "1" else "", flush=True)
if attempt != "3":
    time.sleep(600)
"""


def test_logs_of_earlier_attempts_stay_under_names_of_their_own(workspace: Workspace, tmp_path: Path) -> None:
    config = _config(tmp_path, "lowpriority")
    (tmp_path / "script.py").write_text(SPEAKS)
    run = Experiment(workspace, "attempts").submit(config)
    target, said = ComputeTarget(workspace, "lowpriority"), {1: f"this is attempt 1 {'!' * 100}\n"}
    for attempt in (2, 3):
        said[attempt] = f"Runyard: Attempt {attempt}: 0 files of ./outputs are back.\nthis is attempt {attempt} \n"
    for attempt in (1, 2):
        wait_until(
            lambda attempt=attempt: _log(run, "std_log.txt") == said[attempt], "the log is this attempt's, and no other"
        )
        if attempt == 2:
            assert _log(run, "attempt_1/std_log.txt") == said[1], "while the next one runs"
        (node,) = [one["nodeId"] for one in target.list_nodes() if one["runId"] == run.id]
        workspace._call("remove_node", None, {"evict": 1}, name=target.name, node=node.rpartition("/")[2])
        wait_until(lambda attempt=attempt: run._refresh().attempt > attempt, "it starts again")
    run.wait_for_completion()
    names = {"user_logs/std_log.txt": 3, "user_logs/attempt_1/std_log.txt": 1, "user_logs/attempt_2/std_log.txt": 2}
    names["azureml-logs/70_driver_log.txt"] = 3
    # The first run of its environment has the log of its build beside these.
    assert set(run.get_file_names()) - {BUILD_LOG} == set(names)
    paths = run.get_all_logs(str(tmp_path / "logs"))
    found = {Path(path).relative_to(tmp_path / "logs").as_posix(): Path(path).read_text() for path in paths}
    found.pop(BUILD_LOG, None)
    assert found == {name: said[attempt] for name, attempt in names.items()}
    for attempt in (1, 2, 3):
        words = ["run", "logs", run.id, "--attempt", str(attempt), "--workspace", "attempts"]
        done = subprocess.run([sys.executable, "-m", "runyard.cli", *words], capture_output=True, text=True, check=True)
        assert done.stdout == said[attempt]


def test_followed_log_goes_on_with_the_next_attempt_from_its_beginning(workspace: Workspace, tmp_path: Path) -> None:
    """It went on where the old attempt's log had ended: of a longer one a part was seen, and nothing of a shorter."""
    config = _config(tmp_path, "lowpriority")
    (tmp_path / "script.py").write_text(SPEAKS)
    run = Experiment(workspace, "attempts").submit(config)
    target = ComputeTarget(workspace, "lowpriority")
    words = [sys.executable, "-m", "runyard.cli", "run", "logs", run.id, "-f", "--workspace", "attempts"]
    # All is read in the end, also what nobody had seen when the attempt was over.
    with subprocess.Popen(words, stdout=subprocess.PIPE, bufsize=0) as follower:
        assert follower.stdout is not None
        # It begins with the attempt that it finds, and may take its time to start.
        begun = follower.stdout.read(1)
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: f"attempt {attempt} " in _log(run, "std_log.txt"), "it has begun")
            if attempt == 1:
                run.download_files("user_logs", str(tmp_path / "live"))
                assert (tmp_path / "live" / "user_logs" / "std_log.txt").read_text().startswith("this is attempt 1 ")
            (node,) = [one["nodeId"] for one in target.list_nodes() if one["runId"] == run.id]
            workspace._call("remove_node", None, {"evict": 1}, name=target.name, node=node.rpartition("/")[2])
            wait_until(lambda attempt=attempt: run._refresh().attempt > attempt, "it starts again")
        run.wait_for_completion()
        said = (begun + follower.communicate(timeout=60)[0]).decode()
    assert said == f"this is attempt 1 {'!' * 100}\n" + "".join(
        f"Runyard: Attempt {attempt}: 0 files of ./outputs are back.\nthis is attempt {attempt} \n"
        for attempt in (2, 3)
    )


def _log(run: Run, name: str) -> str:
    return read_log(run, "user_logs/" + name).decode()
