"""kill -9 of a runner of a run on two nodes, in each of its phases: another attempt at the most, and nothing left."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runyard.protocol.compute import ClusterSpec, NodeState
from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.distributed import Distribution, DistributionKind
from runyard.protocol.meeting import Phase
from runyard.protocol.runs import TERMINAL, InputMode, InputSpec, RunStatus
from tests.faults.house import WORKSPACE, House, kill, wait_until
from tests.slow_data import SlowData

pytestmark = pytest.mark.e2e

WAITS = """
tell("up " + os.environ["RANK"])
await_file("go on")
"""
#: Its outputs take about a second to be stored.
WRITES = """
if os.environ["RANK"] == "0":
    with open("outputs/large.bin", "wb") as file:
        file.truncate(1 << 30)
"""


@pytest.fixture
def slow_data() -> Iterator[SlowData]:
    found = SlowData(free=1)
    yield found
    found.close()


def _record(house: House, run_id: str, node: int, name: str) -> dict[str, Any]:
    """What a node's runner wrote down, if it has."""
    path = house.home / "runs" / run_id / ("1" if node == 0 else "1-1") / name
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _is_ready(house: House, run_id: str, node: int) -> bool:
    return _record(house, run_id, node, "node.json").get("phase") == Phase.READY


@pytest.mark.parametrize("phase", ["preparing", "meeting", "running", "finalizing"])
def test_runner_killed_in_any_phase_costs_its_run_an_attempt_at_most(
    house: House, slow_data: SlowData, phase: str
) -> None:
    house.server.call("create_cluster", ClusterSpec("pair", max_nodes=2), workspace=WORKSPACE)
    dataset = house.server.call("save_dataset", DatasetSpec((Source(url=slow_data.url),)), workspace=WORKSPACE)
    run_id = house.submit(
        WAITS + (WRITES if phase == "finalizing" else ""),
        target="pair",
        node_count=2,
        distribution=Distribution(DistributionKind.PYTORCH, process_count=2),
        inputs=(InputSpec("data", InputMode.DOWNLOAD, dataset.id),),
        max_infrastructure_retries=1,
    )
    # One node has its data and waits for the other, which does not get them yet.
    wait_until(slow_data.asked.is_set, "the second node asks for its data")
    wait_until(lambda: any(_is_ready(house, run_id, node) for node in range(2)), "the other is ready")
    held = 0 if _is_ready(house, run_id, 1) else 1
    assert not _is_ready(house, run_id, held)
    pid = int(_record(house, run_id, held if phase == "preparing" else 1 - held, "runner.json")["pid"])
    if phase in ("preparing", "meeting"):
        kill(pid)
    slow_data.may_answer.set()
    house.hear("up 0"), house.hear("up 1")
    if phase == "running":
        house.wait(run_id, RunStatus.RUNNING)
        kill(pid)
    house.tell("go on")
    if phase == "finalizing":
        house.wait(run_id, RunStatus.FINALIZING)
        kill(pid)
    run = house.wait(run_id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 1 if phase == "finalizing" else 2)
    assert [one.status for one in house.events(run_id) if one.status in TERMINAL] == [RunStatus.COMPLETED]
    wait_until(lambda: not house.runner_pids() and not house.script_pids(), "nothing of the run is left")
    nodes = house.server.call("get_cluster", workspace=WORKSPACE, name="pair").nodes
    assert {(node.run_id, node.state) for node in nodes} == {(None, NodeState.IDLE)}
    wait_until(lambda: not list(house.home.glob(f"runs/{run_id}/*")), "its folders are gone")
