"""Tasks and their wiring: the words of the articles, and what must hold for any numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.errors import UserErrorException
from runyard.protocol.distributed import (
    Distribution,
    DistributionKind,
    Place,
    Role,
    Task,
    count_tasks,
    framework_of,
    ports_wanted,
    problem,
    tasks_of,
    tf_config,
    wire,
)

GOLDEN = Path(__file__).with_name("wiring.json")

SHAPES = {
    "two workers": (Distribution(DistributionKind.TENSORFLOW, worker_count=2), 2),
    "a server beside two workers": (
        Distribution(DistributionKind.TENSORFLOW, worker_count=2, parameter_server_count=1),
        2,
    ),
    "four processes of PyTorch on two nodes": (Distribution(DistributionKind.PYTORCH, process_count=4), 2),
    "MPI on two nodes": (Distribution(DistributionKind.MPI, process_count_per_node=2), 2),
}


def wiring(asked: Distribution, nodes: int) -> list[dict[str, str]]:
    tasks = tasks_of(asked, nodes)
    places = [
        Place(f"10.0.0.{node}", tuple(port + at for at, port in enumerate(ports_wanted(asked, nodes, node))))
        for node in range(nodes)
    ]
    return [wire(asked, tasks, places, task) for task in tasks]


def test_wiring_is_as_it_was_written_down() -> None:
    """A change of any of these variables changes what scripts read; make the file anew only on purpose."""
    found = {name: wiring(*shape) for name, shape in SHAPES.items()}
    assert found == json.loads(GOLDEN.read_text())


def test_tf_config_is_the_articles_own() -> None:
    asked = Distribution(DistributionKind.TENSORFLOW, worker_count=2)
    tasks = tasks_of(asked, 2)
    text = tf_config(tasks, [Place("host0", (2222,)), Place("host1", (2222,))], tasks[0])
    assert json.loads(text) == {
        "cluster": {"worker": ["host0:2222", "host1:2222"]},
        "task": {"type": "worker", "index": 0},
        "environment": "cloud",
    }


@pytest.mark.parametrize(
    ("asked", "nodes", "says"),
    [
        (
            Distribution(DistributionKind.MPI, process_count_per_node=0),
            1,
            "process_count_per_node is at least 1, not 0.",
        ),
        (Distribution(DistributionKind.MPI), 0, "node_count is at least 1, not 0."),
        (
            Distribution(DistributionKind.PYTORCH, process_count=3),
            2,
            "process_count (3) is no multiple of node_count (2).",
        ),
        (Distribution(DistributionKind.TENSORFLOW, parameter_server_count=-1), 1, "at least 0, not -1."),
        (Distribution(DistributionKind.TENSORFLOW, worker_count=1), 2, "2 nodes are more than the 1 tasks."),
    ],
)
def test_numbers_that_fit_no_run_are_named(asked: Distribution, nodes: int, says: str) -> None:
    assert says in (problem(asked, nodes) or "")


def test_a_kind_that_there_is_not_is_refused_whatever_is_asked_of_it() -> None:
    unknown, task = Distribution("spark"), Task(0, "worker", 0, 0, 0)
    asked: list[Callable[[], Any]] = [
        lambda: problem(unknown, 0),
        lambda: framework_of(unknown),
        lambda: count_tasks(unknown, 1),
        lambda: tasks_of(unknown, 1),
        lambda: ports_wanted(unknown, 1, 0),
        lambda: wire(unknown, [task], [Place("host")], task),
    ]
    for ask in asked:
        with pytest.raises(UserErrorException, match="one of mpi, tensorflow or pytorch, not 'spark'"):
            ask()


@given(
    kind=st.sampled_from(["mpi", "tensorflow", "pytorch"]),
    each=st.integers(1, 5),
    nodes=st.integers(1, 6),
    workers=st.integers(1, 9),
    servers=st.integers(0, 5),
)
def test_every_task_has_a_place_of_its_own(kind: str, each: int, nodes: int, workers: int, servers: int) -> None:
    asked = Distribution(kind, each, workers, servers, each * nodes)
    if problem(asked, nodes) is not None:
        return
    tasks = tasks_of(asked, nodes)
    assert [one.rank for one in tasks] == list(range(len(tasks)))
    assert count_tasks(asked, nodes) == len(tasks)
    assert {one.node for one in tasks} == set(range(nodes)), "no node is without a task"
    assert len({(one.node, one.local_rank) for one in tasks}) == len(tasks)
    assert len({one.log_name for one in tasks}) == len(tasks)
    for role in (Role.WORKER, Role.PARAMETER_SERVER):
        assert [one.index for one in tasks if one.role == role] == list(range(sum(t.role == role for t in tasks)))
    if kind == "tensorflow":
        hosts = json.loads(wiring(asked, nodes)[0]["TF_CONFIG"])["cluster"]
        addresses = [host for found in hosts.values() for host in found]
        assert len(set(addresses)) == len(tasks) == workers + servers
