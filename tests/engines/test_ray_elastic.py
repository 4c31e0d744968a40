"""Nodes of a Ray cluster that are not there yet come for the runs that need them, and go when nothing does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core.runconfig import PyTorchConfiguration
from runyard.errors import UserErrorException
from tests.engines.engines import Engine, make_engine, wait_until
from tests.engines.ray_cluster import RAY
from tests.engines.ray_nodes import ELASTIC

pytestmark = RAY

#: Each of two processes says where it is, and waits for the other: neither node goes before both were there.
TRAINS = """
import os, sys, time
from azureml.core import Run
folder, rank = sys.argv[1], os.environ["RANK"]
with open(os.path.join(folder, "at-" + rank + ".new"), "w") as file:
    file.write(os.readlink("/proc/self/ns/net"))
os.rename(file.name, os.path.join(folder, "at-" + rank))
for other in range(int(os.environ["WORLD_SIZE"])):
    while not os.path.exists(os.path.join(folder, "at-%d" % other)):
        time.sleep(0.05)
while not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.05)
Run.get_context().log("rank", int(rank))
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("ray", tmp_path_factory.mktemp("ray-elastic"), ray_nodes=(0, 2)) as found:
        yield found


def nodes_of(engine: Engine) -> list[str]:
    assert engine.ray is not None
    return [node.kind for node in engine.ray.nodes()]


def two(count: int = 2) -> dict[str, object]:
    return {"node_count": count, "distribution": PyTorchConfiguration(process_count=count, node_count=count)}


def test_run_brings_its_nodes_and_they_go_when_it_has_ended(engine: Engine, tmp_path: Path) -> None:
    assert nodes_of(engine) == []
    run = engine.submit(tmp_path, TRAINS, str(tmp_path), **two())
    reasons: list[str] = []

    def is_there() -> bool:
        reasons.append(engine.why(run))
        return (tmp_path / "at-1").exists() and (tmp_path / "at-0").exists()

    wait_until(is_there, "it trains on both")
    assert "Waits for 2 nodes with 1 CPU each to come up in Ray." in reasons
    assert nodes_of(engine) == [ELASTIC, ELASTIC]
    places = {(tmp_path / f"at-{rank}").read_text() for rank in range(2)}
    assert len(places) == 2
    # What the target's nodes are counted by is its own max_nodes: the next run waits in our queue.
    late = engine.submit(tmp_path, "print('late')")
    wait_until(lambda: "all 2 are busy" in engine.why(late), "the next one waits")
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert sorted(run.get_metrics()["rank"]) == [0, 1]
    late.wait_for_completion()
    wait_until(lambda: nodes_of(engine) == [], "the nodes go")


def test_run_that_can_never_fit_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="'there' has at most 2 nodes, not 3"):
        engine.submit(tmp_path, "print('never')", **two(3))
