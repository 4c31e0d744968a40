"""Runs of several processes on a real server: how they find each other, end together and share one record."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("distributed")]

TELLS = """
import json, os, sys
from azureml.core import Run
names = ("TF_CONFIG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
         "AZ_BATCHAI_TASK_INDEX", "AZ_BATCHAI_TASK_TYPE", "AZ_BATCHAI_PYTORCH_INIT_METHOD", "AZ_BATCH_MASTER_NODE")
rank = os.environ["RUNYARD_RANK"]
json.dump({**{name: os.environ.get(name) for name in names}, "arguments": sys.argv[1:]},
          open("outputs/%s.json" % rank, "w"))
os.makedirs("outputs/node_1", exist_ok=True)
for name in ("shared.txt", "node_1/shared.txt", "node_1/alike.txt"):
    open("outputs/" + name, "w").write("of " + ("all" if "alike" in name else rank))
Run.get_context().log("rank", int(rank))
print("said by", rank)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("distributed-home")):
        found = Workspace.create("many", exist_ok=True)
        config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=3)
        ComputeTarget.create(found, "three", config).wait_for_completion()
        yield found


def submit(workspace: Workspace, folder: Path, script: str, config: Any, *arguments: str, **variables: str) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(script)
    environment = Environment("plain")
    environment.python.user_managed_dependencies = True
    environment.environment_variables.update(variables)
    asked = ScriptRunConfig(
        str(folder), "train.py", list(arguments), compute_target="three", environment=environment,
        distributed_job_config=config,
    )  # fmt: skip
    return Experiment(workspace, "many").submit(asked)


def told(run: Run, tmp_path: Path, rank: int) -> dict[str, Any]:
    target = tmp_path / f"{rank}.json"
    run.download_file(f"outputs/{rank}.json", str(target))
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def test_tensorflow_tasks_know_each_other(workspace: Workspace, tmp_path: Path) -> None:
    run = submit(
        workspace, tmp_path / "source", TELLS, TensorflowConfiguration(worker_count=2, parameter_server_count=0)
    )
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    configs = [json.loads(told(run, tmp_path, rank)["TF_CONFIG"]) for rank in range(2)]
    assert configs[0]["cluster"] == configs[1]["cluster"]
    assert len(set(configs[0]["cluster"]["worker"])) == 2
    assert [one["task"] for one in configs] == [{"type": "worker", "index": rank} for rank in range(2)]
    assert {one["environment"] for one in configs} == {"cloud"}
    names = run.get_file_names()
    assert {"user_logs/std_log_process_0.txt", "user_logs/std_log_process_1.txt"} <= set(names)
    assert sorted(run.get_metrics()["rank"]) == [0, 1]
    assert run.get_metrics_by_rank() == {0: {"rank": 0}, 1: {"rank": 1}}
    run.download_files("outputs", str(tmp_path / "record"))
    record = tmp_path / "record" / "outputs"
    assert {path.relative_to(record).as_posix(): path.read_text() for path in record.rglob("*.txt")} == {
        "shared.txt": "of 0",
        "node_1/shared.txt": "of 0",
        "node_1/alike.txt": "of all",
        "node_1-2/shared.txt": "of 1",
        "node_1/node_1/shared.txt": "of 1",
    }
    run.download_file("system_logs/node_1.txt", str(tmp_path / "node_1.txt"))
    assert (tmp_path / "node_1.txt").read_text() == (
        "Runyard: 'outputs/shared.txt' of node 1 is in the record as 'outputs/node_1-2/shared.txt': "
        "other files have its names.\n"
    )


def test_pytorch_processes_know_each_other(workspace: Workspace, tmp_path: Path) -> None:
    config = PyTorchConfiguration("Gloo", process_count=4, node_count=2)
    words = ("--rank", "$AZ_BATCHAI_TASK_INDEX", "--url", "$AZ_BATCHAI_PYTORCH_INIT_METHOD")
    run = submit(workspace, tmp_path / "source", TELLS, config, *words)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    found = [told(run, tmp_path, rank) for rank in range(4)]
    assert [(one["RANK"], one["LOCAL_RANK"], one["NODE_RANK"], one["WORLD_SIZE"]) for one in found] == [
        ("0", "0", "0", "4"), ("1", "1", "0", "4"), ("2", "0", "1", "4"), ("3", "1", "1", "4"),
    ]  # fmt: skip
    (master,) = {(one["MASTER_ADDR"], one["MASTER_PORT"], one["AZ_BATCHAI_PYTORCH_INIT_METHOD"]) for one in found}
    assert master[2] == f"tcp://{master[0]}:{master[1]}"
    assert [one["arguments"] for one in found] == [["--rank", str(rank), "--url", master[2]] for rank in range(4)]


FAILS = """
import os, sys, time
if os.environ["RUNYARD_RANK"] == sys.argv[1]:
    time.sleep(0.5)
    raise ValueError("the data of rank " + sys.argv[1] + " are odd")
try:
    time.sleep(100)
finally:
    print("ended by others")
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_first_failing_process_is_named_and_ends_the_others(workspace: Workspace, tmp_path: Path, rank: int) -> None:
    run = submit(workspace, tmp_path / "source", FAILS, PyTorchConfiguration(node_count=2), str(rank))
    started = time.monotonic()
    run.wait_for_completion(raise_on_error=False)
    error = run.get_details()["error"]["error"]
    assert error["message"].startswith(
        f"process {rank} on node {rank}: 'train.py' ended with exit code 1: ValueError: the data of rank {rank} are odd"
    )
    assert "Traceback" in str(error), "its own traceback"
    assert time.monotonic() - started < 60, "the other one was not waited for"


SERVES = """
import json, os, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
while task["type"] == "ps":
    time.sleep(0.1)
"""


def test_end_of_the_workers_ends_the_parameter_servers(workspace: Workspace, tmp_path: Path) -> None:
    run = submit(
        workspace, tmp_path / "source", SERVES, TensorflowConfiguration(worker_count=2, parameter_server_count=1)
    )
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    assert "user_logs/std_log_process_0_ps.txt" in run.get_file_names()


WORKS_ON = """
import time
print("started", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("config", "of", "named"),
    [
        (TensorflowConfiguration(2, 1), "AZ_BATCHAI_TASK_TYPE=ps", "parameter server 0 on node 0"),
        (TensorflowConfiguration(2, 1), "AZ_BATCHAI_TASK_TYPE=worker", "process "),
        (MpiConfiguration(node_count=2), "OMPI_COMM_WORLD_RANK=1", "process 1 on node 1"),
        (PyTorchConfiguration(process_count=2, node_count=2), "RANK=0", "process 0 on node 0"),
    ],
)
def test_killed_process_is_named_and_ends_the_others(
    workspace: Workspace, tmp_path: Path, config: Any, of: str, named: str
) -> None:
    run = submit(workspace, tmp_path / "source", WORKS_ON, config)
    count = 3 if isinstance(config, TensorflowConfiguration) else 2
    _wait(lambda: _all_started(run, count))
    os.kill(_pids_with(f"AZUREML_RUN_ID={run.id}", of)[-1], signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    message = run.get_details()["error"]["error"]["message"]
    assert message.startswith(named)
    assert "was killed by SIGKILL" in message
    _wait(lambda: not _pids_with(f"AZUREML_RUN_ID={run.id}", of))


def _pids_with(*variables: str) -> list[int]:
    """Scripts, on this host, with all of these variables."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            values = (entry / "environ").read_bytes().split(b"\0")
            if b"train.py" in words and all(one.encode() in values for one in variables):
                found.append(int(entry.name))
    return sorted(found)


HANGS = """
import os, time
if os.environ["RUNYARD_RANK"] == "1":
    time.sleep(1000)
"""


@pytest.mark.parametrize("kind", [PyTorchConfiguration, MpiConfiguration])
@pytest.mark.parametrize("nodes", [1, 2])
def test_process_that_hangs_after_the_others_is_killed_and_named(
    workspace: Workspace, tmp_path: Path, nodes: int, kind: Any
) -> None:
    each = {"process_count": 2} if kind is PyTorchConfiguration else {"process_count_per_node": 2 // nodes}
    config = kind(**each, node_count=nodes)
    run = submit(workspace, tmp_path / "source", HANGS, config, RUNYARD_STRAGGLER_SECONDS="1.5")
    run.wait_for_completion(raise_on_error=False)
    message = run.get_details()["error"]["error"]["message"]
    assert message == (
        f"process 1 on node {nodes - 1}: 'train.py' went on for 1.5 s after the others had ended, and was killed."
    )


def test_time_for_the_last_process_that_is_no_number_is_told_in_the_log(workspace: Workspace, tmp_path: Path) -> None:
    for config in (PyTorchConfiguration(process_count=2, node_count=2), MpiConfiguration(1, node_count=2)):
        run = submit(workspace, tmp_path / "source", "print('done')", config, RUNYARD_STRAGGLER_SECONDS="half an hour")
        run.wait_for_completion()
        (target := tmp_path / "std_log.txt").unlink(missing_ok=True)
        run.download_file("user_logs/std_log.txt", str(target))
        assert (
            target.read_text().count(
                "Runyard: RUNYARD_STRAGGLER_SECONDS is a number of seconds, as 90 or 1.5, and not 'half an hour'; "
                "the last processes have 1800 s after the others.\n"
            )
            == 1
        )


SLEEPS = """
import time
print("started", flush=True)
time.sleep(1000)
"""


def _folders(run: Run) -> list[Path]:
    return sorted(Path(os.environ["RUNYARD_HOME"]).glob(f"runs/{run.id}/*/runner.json"))


def _wait(is_so: Any, timeout_s: float = 60) -> None:
    ends_at = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def _all_started(run: Run, count: int) -> bool:
    logs = Path(os.environ["RUNYARD_HOME"]).glob(f"runs/{run.id}/*/processes/*.txt")
    return sum("started" in one.read_text() for one in logs) == count


def test_cancel_ends_every_process(workspace: Workspace, tmp_path: Path) -> None:
    run = submit(workspace, tmp_path / "source", SLEEPS, PyTorchConfiguration(process_count=4, node_count=2))
    _wait(lambda: _all_started(run, 4))
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    _wait(lambda: not _folders(run))


@pytest.mark.parametrize("node", [0, 1])
def test_killed_runner_of_one_node_ends_the_run_and_frees_every_node(
    workspace: Workspace, tmp_path: Path, node: int
) -> None:
    run = submit(workspace, tmp_path / "source", SLEEPS, PyTorchConfiguration(node_count=3))
    _wait(lambda: _all_started(run, 3))
    record = Path(os.environ["RUNYARD_HOME"]) / "runs" / run.id / ("1" if node == 0 else f"1-{node}") / "runner.json"
    os.kill(int(json.loads(record.read_text())["pid"]), 9)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "supervised the run was killed" in str(run.get_details()["error"])
    states = workspace.compute_targets["three"].get_status().node_state_counts
    assert states["runningNodeCount"] == 0, states


def test_runs_that_together_need_more_nodes_take_turns(workspace: Workspace, tmp_path: Path) -> None:
    brief = "import time\ntime.sleep(0.3)\n"
    runs = [
        submit(workspace, tmp_path / f"source-{number}", brief, PyTorchConfiguration(node_count=2))
        for number in range(4)
    ]
    for run in runs:
        run.wait_for_completion(raise_on_error=False)
        assert run.get_status() == "Completed", run.get_details_with_logs()


def test_environment_that_fails_on_a_node_is_the_runs_error(workspace: Workspace, tmp_path: Path) -> None:
    run = submit(workspace, tmp_path / "source", "import nothing_like_it\n", TensorflowConfiguration(2, 0))
    run.wait_for_completion(raise_on_error=False)
    message = run.get_details()["error"]["error"]["message"]
    assert "ModuleNotFoundError: No module named 'nothing_like_it'" in message


@pytest.mark.parametrize(
    ("config", "target", "says"),
    [
        (PyTorchConfiguration(node_count=2), "local", "The target 'local' is one node, not 2"),
        (PyTorchConfiguration(node_count=4), "three", "has at most 3 nodes, not 4; update(max_nodes=4)"),
    ],
)
def test_more_nodes_than_the_target_has_are_refused(
    workspace: Workspace, tmp_path: Path, config: Any, target: str, says: str
) -> None:
    (tmp_path / "train.py").write_text("")
    asked = ScriptRunConfig(str(tmp_path), "train.py", compute_target=target, distributed_job_config=config)
    with pytest.raises(Exception, match=re.escape(says)):
        Experiment(workspace, "many").submit(asked)


RANKS = """
import json, os, sys
names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "AZ_BATCHAI_TASK_INDEX",
         "AZ_BATCHAI_MPI_MASTER_NODE", "AZ_BATCH_MASTER_NODE", "AZUREML_RUN_ID")
rank = os.environ["OMPI_COMM_WORLD_RANK"]
json.dump({**{name: os.environ.get(name) for name in names}, "work": os.getcwd(), "arguments": sys.argv[1:]},
          open("outputs/%s.json" % rank, "w"))
print("said by", rank)
if sys.argv[1:] == [rank]:
    raise ValueError("the data of rank " + rank + " are odd")
"""


def test_mpirun_starts_ranks_on_every_node(workspace: Workspace, tmp_path: Path) -> None:
    run = submit(workspace, tmp_path / "source", RANKS, MpiConfiguration(process_count_per_node=2, node_count=2))
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    found = [told(run, tmp_path, rank) for rank in range(4)]
    assert [(one["OMPI_COMM_WORLD_RANK"], one["OMPI_COMM_WORLD_LOCAL_RANK"]) for one in found] == [
        ("0", "0"), ("1", "1"), ("2", "0"), ("3", "1"),
    ]  # fmt: skip
    assert {(one["OMPI_COMM_WORLD_SIZE"], one["AZUREML_RUN_ID"]) for one in found} == {("4", run.id)}
    assert [one["AZ_BATCHAI_TASK_INDEX"] for one in found] == ["0", "1", "2", "3"]
    assert len({one["work"] for one in found}) == 2, "each node has a folder of its own"
    logs = run.get_details_with_logs()["logFiles"]
    assert [logs[f"user_logs/std_log_process_{rank}.txt"] for rank in range(4)] == [f"said by {r}\n" for r in range(4)]


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_fails_is_named_with_its_traceback(workspace: Workspace, tmp_path: Path, rank: int) -> None:
    run = submit(workspace, tmp_path / "source", RANKS, MpiConfiguration(node_count=2), str(rank))
    run.wait_for_completion(raise_on_error=False)
    error = run.get_details()["error"]["error"]
    said = (
        f"process {rank} on node {rank}: 'train.py' ended with exit code 1: ValueError: the data of rank {rank} are odd"
    )
    assert error["message"].startswith(said)
    assert "Traceback" in str(error)


def test_daemon_that_does_not_start_on_a_node_ends_the_run(workspace: Workspace, tmp_path: Path) -> None:
    """mpirun itself would wait for it for ever."""
    daemon = tmp_path / "bin" / "orted"
    daemon.parent.mkdir()
    daemon.write_text("#!/bin/sh\necho this host is odd\nexit 3\n")
    daemon.chmod(0o700)
    path = os.pathsep.join([str(daemon.parent), os.environ["PATH"]])
    run = submit(workspace, tmp_path / "source", RANKS, MpiConfiguration(node_count=2), PATH=path)
    run.wait_for_completion(raise_on_error=False)
    error = run.get_details()["error"]["error"]
    assert "could not run on node 1: mpirun's daemon ended with 3" in error["message"]
    assert "this host is odd" in str(error)
