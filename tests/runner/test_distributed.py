"""Runs of several processes on a real server: how they find each other, end together and share one record."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.runconfig import PyTorchConfiguration, TensorflowConfiguration
from runyard.client.local_server import connect
from runyard.sdk.session import forget_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("distributed")]

TELLS = """
import json, os, sys
from azureml.core import Run
names = ("TF_CONFIG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
         "AZ_BATCHAI_TASK_INDEX", "AZ_BATCHAI_TASK_TYPE", "AZ_BATCHAI_PYTORCH_INIT_METHOD", "AZ_BATCH_MASTER_NODE")
rank = os.environ["RUNYARD_RANK"]
json.dump({**{name: os.environ.get(name) for name in names}, "arguments": sys.argv[1:]},
          open("outputs/%s.json" % rank, "w"))
open("outputs/shared.txt", "w").write("of " + rank)
Run.get_context().log("rank", int(rank))
print("said by", rank)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(tmp_path_factory.mktemp("distributed-home")))
        forget_server()
        found = Workspace.create("many", exist_ok=True)
        config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=3)
        ComputeTarget.create(found, "three", config).wait_for_completion()
        yield found
        server = connect()
        server.call("stop_server")
        server.close()
        forget_server()


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
    assert {"outputs/shared.txt", "outputs/node_1/shared.txt"} <= set(names)
