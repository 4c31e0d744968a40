"""What get_status() says of a cluster's nodes: by their own states, and by those of their runs."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.protocol.compute import Cluster, ClusterSpec, Node, NodeState, why_stuck
from runyard.sdk.aml_compute_status import AmlComputeStatus, AttachedStatus
from tests.engines.engines import wait_until
from tests.own_server import own_server

#: (a node's state, its run's): v1's word for it.
STATES = {
    (NodeState.IDLE, None): "idle",
    (NodeState.RUNNING, "Queued"): "preparing",
    (NodeState.RUNNING, "Running"): "running",
    (NodeState.RUNNING, "Finalizing"): "running",
    (NodeState.RUNNING, "NotResponding"): "unusable",
    (NodeState.LEAVING, "Running"): "leaving",
    (NodeState.PREEMPTED, "CancelRequested"): "preempted",
}


def _cluster(*nodes: Node, warnings: tuple[str, ...] = ()) -> Cluster:
    spec = ClusterSpec("some", max_nodes=9)
    return Cluster("some", "here", spec, "ann", 0, 0, nodes=nodes, current_node_count=len(nodes), warnings=warnings)


@pytest.mark.parametrize(("states", "word"), STATES.items())
def test_node_is_counted_as_what_it_is(states: tuple[str, str | None], word: str) -> None:
    node = Node("here/some/node-0", states[0], None if states[1] is None else "run-1", 0, states[1])
    counts = AmlComputeStatus(_cluster(node)).node_state_counts
    assert counts == {f"{one}NodeCount": int(one == word) for one in {*STATES.values()}}
    assert getattr(counts, f"{word}_node_count") == 1
    assert counts.serialize() == dict(counts)
    with pytest.raises(AttributeError, match="the counts have no 'broken_node_count'"):
        _ = counts.broken_node_count


def test_errors_are_what_no_run_gets_past_and_nodes_that_are_silent() -> None:
    emulated = "STANDARD_NC6 is emulated: this host lacks 1 GPU; runs use what it has."
    assert AmlComputeStatus(_cluster(warnings=(emulated,))).errors is None
    never = "No run can start on STANDARD_NC24: a node has 4 GPUs, and this host 2."
    silent = Node("here/some/node-3", NodeState.RUNNING, "run-1", 0, "NotResponding")
    found = AmlComputeStatus(_cluster(silent, warnings=(never,))).errors
    assert found == [
        {"error": {"code": "NoRunCanStart", "message": never}},
        {"error": {"code": "NodeNotResponding", "message": "node-3 is not heard of; its run is run-1."}},
    ]


MINUTE = 60_000_000


@pytest.mark.parametrize(
    ("state", "run_status", "doing"),
    [
        (NodeState.RUNNING, "Queued", "preparing"),
        (NodeState.RUNNING, "Preparing", "preparing"),
        (NodeState.RUNNING, "Running", ""),
        (NodeState.IDLE, None, ""),
        (NodeState.LEAVING, "Running", ""),
        (NodeState.LEAVING, None, "leaving"),
        (NodeState.PREEMPTED, "CancelRequested", "leaving"),
    ],
)
def test_node_that_does_not_get_on_is_an_error_of_its_target(state: str, run_status: str | None, doing: str) -> None:
    node = Node("here/some/node-3", state, run_status and "run-1", 5 * MINUTE, run_status)
    assert why_stuck(node, 65 * MINUTE, 60 * MINUTE) == ""
    found = why_stuck(node, 66 * MINUTE, 60 * MINUTE)
    assert bool(found) == bool(doing)
    if doing:
        assert found.startswith(f"node-3 has been {doing} for 61 minutes")
        assert (f"with run run-1 in {run_status}" in found) == (run_status is not None)
        errors = AmlComputeStatus(_cluster(replace(node, stuck=found))).errors
        assert errors == [{"error": {"code": "NodeStuck", "message": found}}]


def test_status_of_what_is_attached_is_v1s_text_and_has_a_clusters_attributes() -> None:
    found = AttachedStatus(_cluster())
    assert (found, found.node_state_counts.idle_node_count, found.errors) == ("Succeeded", 0, None)
    assert found.serialize()["provisioningState"] == "Succeeded"


@pytest.mark.e2e
def test_counts_follow_a_cluster_that_drains_and_waits(tmp_path: Path) -> None:
    with own_server(tmp_path / "home"):
        workspace = Workspace.create("counts", exist_ok=True)
        config = AmlCompute.provisioning_configuration(min_nodes=2, max_nodes=2, idle_seconds_before_scaledown=600)
        cluster = ComputeTarget.create(workspace, "pair", config)
        cluster.wait_for_completion(timeout_in_minutes=1)
        first = _submit(workspace, tmp_path)
        wait_until(lambda: first.get_status() == "Running", "the script runs")
        status = cluster.get_status()
        # One more is not on its way: the idle node is there for the next run.
        assert (status.target_node_count, status.allocation_state) == (2, "Steady")
        counts = status.node_state_counts
        assert (counts.running_node_count, counts.idle_node_count, counts.leaving_node_count) == (1, 1, 0)
        (busy,) = [one["nodeId"] for one in cluster.list_nodes() if one["runId"] == first.id]
        workspace._call("remove_node", name="pair", node=busy.rpartition("/")[2])
        second, third = _submit(workspace, tmp_path), _submit(workspace, tmp_path)
        wait_until(lambda: second.get_status() == "Running", "the next run has the other node")
        counts = cluster.get_status().node_state_counts
        assert (counts.running_node_count, counts.idle_node_count, counts.leaving_node_count) == (1, 0, 1)
        for run in (third, second, first):
            run.cancel()
            run.wait_for_completion(raise_on_error=False)


def _submit(workspace: Workspace, folder: Path) -> Run:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "script.py").write_text("import time\ntime.sleep(600)\n")
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    config = ScriptRunConfig(str(folder / "source"), "script.py", compute_target="pair", environment=environment)
    return Experiment(workspace, "counts").submit(config)
