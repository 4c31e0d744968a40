"""Runs on several nodes whose processes, runners and server are killed: each end is told, each node free after."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from runyard.protocol.compute import ClusterSpec
from runyard.protocol.distributed import Distribution, DistributionKind
from runyard.protocol.runs import RunStatus
from tests.faults.house import WORKSPACE, House, kill, wait_until

pytestmark = pytest.mark.e2e

PAIR = Distribution(DistributionKind.PYTORCH, process_count=2)
WAITS = """
rank = os.environ["RANK"]
tell("up " + rank + " " + os.environ["AZ_BATCHAI_TASK_INDEX"], known(os.getpid()))
os.makedirs("outputs", exist_ok=True)
open("outputs/by-" + rank, "w").write(rank)
await_file("go on")
print("done", rank)
"""


def _submit(house: House, code: str = WAITS, priority: str = "dedicated", **spec: Any) -> str:
    house.server.call("create_cluster", ClusterSpec("pair", vm_priority=priority, max_nodes=2), workspace=WORKSPACE)
    return house.submit(code, target="pair", node_count=2, distribution=PAIR, **spec)


def _are_free(house: House) -> bool:
    found = house.server.call("get_cluster", workspace=WORKSPACE, name="pair")
    return all(node.run_id is None for node in found.nodes)


def _assert_nothing_is_left(house: House) -> None:
    wait_until(lambda: not house.runner_pids() and not house.script_pids(), "nothing of the run is left")
    wait_until(lambda: _are_free(house), "its nodes are free")


@pytest.mark.parametrize("moment", ["running", "ending"])
def test_server_that_dies_is_waited_for_by_every_node(house: House, moment: str) -> None:
    run_id = _submit(house)
    house.hear("up 0 0"), house.hear("up 1 1")
    house.wait(run_id, RunStatus.RUNNING)
    house.kill_server()
    house.tell("go on")
    if moment == "ending":
        wait_until(lambda: not house.script_pids(), "the script ends without a server")
    house.start()
    run = house.wait(run_id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 1)
    found = {one.path for one in house.server.call("list_artifacts", workspace=WORKSPACE, run_id=run_id)}
    assert {"outputs/by-0", "outputs/by-1", "user_logs/std_log_process_1.txt"} <= found
    _assert_nothing_is_left(house)


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_process_is_named_and_ends_the_others(house: House, rank: int) -> None:
    run_id = _submit(house)
    pids = [pid for one in range(2) for pid in house.hear_pids(f"up {one} {one}")]
    kill(pids[rank])
    run = house.wait(run_id)
    assert run.error is not None
    assert run.error.message.startswith(f"process {rank} on node {rank}: 'train.py' was killed by SIGKILL")
    _assert_nothing_is_left(house)


@pytest.mark.parametrize("node", [0, 1])
def test_lost_node_starts_the_run_again_on_all(house: House, node: int) -> None:
    """On a cluster of low priority; what was stored is back before the next attempt."""
    code = WAITS.replace('await_file("go on")', 'await_file("go on") if first else None').replace(
        'os.makedirs("outputs", exist_ok=True)', 'first = not os.path.exists("outputs/by-0")'
    )
    run_id = _submit(house, code, priority="lowpriority")
    house.hear("up 0 0"), house.hear("up 1 1")
    wait_until(lambda: len(list(Path(house.home).glob(f"runs/{run_id}/*/work/outputs/by-*"))) == 2, "both have written")
    folder = house.home / "runs" / run_id / ("1" if node == 0 else "1-1")
    kill(int(json.loads((folder / "runner.json").read_text())["pid"]))
    run = house.wait(run_id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 2)
    _assert_nothing_is_left(house)


#: Writes a checkpoint of its rank under a name that all ranks take, a name of its own, a folder of its own, and one
#: that is called as what is put aside.
CHECKPOINTS = """
rank, attempt = os.environ["RANK"], os.environ["AZUREML_RUN_ATTEMPT"]
names = ["outputs/last", "outputs/of-" + rank, "outputs/node_" + rank + "/mine", "outputs/node_1/last"]
tell("found " + rank + " " + attempt, [open(one).read() if os.path.exists(one) else None for one in names])
for folder in {rank, "1"}:
    os.makedirs("outputs/node_" + folder, exist_ok=True)
for one in names:
    open(one, "w").write("rank " + rank + " step " + attempt + " " + os.path.basename(os.path.dirname(one)))
tell("up " + rank + " " + attempt)
while attempt != "3":
    time.sleep(0.1)
"""


def test_each_node_finds_its_own_checkpoints_however_often_it_is_taken_away(house: House) -> None:
    run_id = _submit(house, CHECKPOINTS, priority="lowpriority")
    for attempt in (1, 2):
        house.hear(f"up 0 {attempt}"), house.hear(f"up 1 {attempt}")
        house.wait(run_id, RunStatus.RUNNING)
        node = str(house.run(run_id).node).rpartition("/")[2]
        house.server.call("remove_node", None, {"evict": 1}, workspace=WORKSPACE, name="pair", node=node)
        wait_until(lambda attempt=attempt: house.run(run_id).attempt > attempt, "it starts again")
    run = house.wait(run_id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 3)
    for rank in (0, 1):
        assert house.hear(f"found {rank} 1") == str([None] * 4)
        for step in (1, 2):
            before = [
                f"rank {rank} step {step} {folder}" for folder in ("outputs", "outputs", f"node_{rank}", "node_1")
            ]
            assert house.hear(f"found {rank} {step + 1}") == str(before), "its own"
    artifacts = house.server.call("list_artifacts", None, {"prefix": "outputs/"}, workspace=WORKSPACE, run_id=run_id)
    record = {
        one.path: b"".join(
            house.server.stream("read_artifact", workspace=WORKSPACE, run_id=run_id, path=one.path)
        ).decode()
        for one in artifacts
    }
    assert record == {
        "outputs/last": "rank 0 step 3 outputs",
        "outputs/of-0": "rank 0 step 3 outputs",
        "outputs/node_0/mine": "rank 0 step 3 node_0",
        "outputs/node_1/last": "rank 0 step 3 node_1",
        "outputs/of-1": "rank 1 step 3 outputs",
        "outputs/node_1/mine": "rank 1 step 3 node_1",
        "outputs/node_1-2/last": "rank 1 step 3 outputs",
        "outputs/node_1/node_1/last": "rank 1 step 3 node_1",
    }, "those of the last attempt"


def test_killed_mpirun_is_the_runs_error(house: House) -> None:
    house.server.call("create_cluster", ClusterSpec("pair", max_nodes=2), workspace=WORKSPACE)
    asked = Distribution(DistributionKind.MPI)
    run_id = house.submit(
        WAITS.replace('"RANK"', '"OMPI_COMM_WORLD_RANK"'), target="pair", node_count=2, distribution=asked
    )
    pids = [pid for one in range(2) for pid in house.hear_pids(f"up {one} {one}")]
    kill(pids[1])
    run = house.wait(run_id)
    assert run.error is not None
    assert "process 1 on node 1" in run.error.message
    _assert_nothing_is_left(house)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_evicted_node_starts_its_run_again_elsewhere(house: House) -> None:
    """The script hears TERM, finds the notice, and its last checkpoint is there in the next attempt."""
    house.server.call(
        "create_cluster", ClusterSpec("pair", vm_priority="lowpriority", max_nodes=2), workspace=WORKSPACE
    )
    run_id = house.submit(
        """
os.makedirs("outputs", exist_ok=True)
def end(*_):
    open("outputs/checkpoint", "w").write(open(os.environ["AZUREML_EVICTION_NOTICE"]).read())
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
if os.environ["AZUREML_RUN_ATTEMPT"] == "2":
    tell("found", open("outputs/checkpoint").read())
    sys.exit(0)
tell("up", os.getpid())
time.sleep(1000)
""",
        target="pair",
    )
    house.hear("up")
    (node,) = [one.id for one in house.server.call("get_cluster", workspace=WORKSPACE, name="pair").nodes]
    names = {"workspace": WORKSPACE, "name": "pair", "node": node.rpartition("/")[2]}
    house.server.call("remove_node", None, {"evict": 1}, **names)
    run = house.wait(run_id)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2), run.error
    assert "ends_at" in house.hear("found")
    assert run.node != node
    _assert_nothing_is_left(house)
    left = [one.id for one in house.server.call("get_cluster", workspace=WORKSPACE, name="pair").nodes]
    assert node not in left, "it is gone"


def test_stopped_runner_of_another_node_holds_no_cancel_up(house: House) -> None:
    run_id = _submit(house)
    house.hear("up 0 0"), house.hear("up 1 1")
    house.wait(run_id, RunStatus.RUNNING)
    os.kill(int(json.loads((house.home / "runs" / run_id / "1-1" / "runner.json").read_text())["pid"]), signal.SIGSTOP)
    house.server.call("cancel_run", workspace=WORKSPACE, run_id=run_id)
    assert house.wait(run_id, limit_s=90).status == RunStatus.CANCELED
    _assert_nothing_is_left(house)


def test_node_that_lost_what_it_had_said_goes_on_from_there(house: House) -> None:
    run_id = _submit(house)
    house.hear("up 0 0"), house.hear("up 1 1")
    house.wait(run_id, RunStatus.RUNNING)
    folder = house.home / "runs" / run_id / "1-1"
    house.kill_server()
    kill(int(json.loads((folder / "runner.json").read_text())["pid"]))
    (folder / "node.json").write_text("")
    house.start()
    run = house.wait(run_id)
    assert run.status == RunStatus.FAILED
    _assert_nothing_is_left(house)


def test_process_that_cannot_be_started_leaves_none_of_the_others(house: House) -> None:
    """Rank 0's program is there, rank 1's is not."""
    house.server.call("create_cluster", ClusterSpec("pair", max_nodes=2), workspace=WORKSPACE)
    program = house.stage / "program-0"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    run_id = house.submit("", target="pair", distribution=PAIR, command=(str(house.stage / "program-$RANK"),))
    run = house.wait(run_id)
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert "program-1" in run.error.message
    _assert_nothing_is_left(house)
