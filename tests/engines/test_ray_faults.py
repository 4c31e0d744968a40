"""What happens to runs on Ray whose head, raylets, nodes and lines are taken away."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Run
from runyard.azureml.core.compute import ComputeTarget, RayCompute
from runyard.errors import ComputeTargetException
from tests.engines.engines import Engine, make_engine, wait_until
from tests.engines.ray_cluster import RAY, RayCluster

pytestmark = RAY

#: Says where it runs, and goes on when it is told to; what a second attempt does at once.
WAITS = """
import os, sys, time
folder = sys.argv[1]
attempt = os.environ["AZUREML_RUN_ATTEMPT"]
with open(os.path.join(folder, "up-" + attempt + ".new"), "w") as file:
    file.write(os.readlink("/proc/self/ns/net") + " " + str(os.getpid()))
os.rename(file.name, os.path.join(folder, "up-" + attempt))
if attempt == "1":
    while not os.path.exists(os.path.join(folder, "go")):
        time.sleep(0.05)
open("outputs/of-" + attempt, "w").close()
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_FENCE_SECONDS", "8")
        with make_engine("ray", tmp_path_factory.mktemp("ray-faults")) as found:
            ray, folder = ray_of(found), str(found.node_folder)
            config = RayCompute.attach_configuration(
                ray.address, max_nodes=2, node_folder=folder, vm_priority="lowpriority"
            )
            ComputeTarget.attach(found.workspace, "spot", config)
            yield found


def ray_of(engine: Engine) -> RayCluster:
    assert engine.ray is not None
    return engine.ray


def begin(engine: Engine, folder: Path, target: str = "there") -> tuple[Run, str, int]:
    """A run that waits; the network namespace that its script is in, and its process."""
    run = engine.submit(folder, WAITS, str(folder), compute_target=target)
    wait_until((folder / "up-1").exists, "its script runs")
    namespace, pid = (folder / "up-1").read_text().split()
    return run, namespace, int(pid)


def node_of(ray: RayCluster, namespace: str) -> str:
    """The name of the node in that network namespace."""
    for node in ray.nodes():
        found = subprocess.run(
            ["ip", "netns", "exec", node.name, "readlink", "/proc/self/ns/net"],
            capture_output=True,
            text=True,
            check=True,
        )
        if found.stdout.strip() == namespace:
            return node.name
    raise AssertionError(f"no node has {namespace}")


def cut(node: str, state: str) -> None:
    """Take a node off the network, or bring it back."""
    found = subprocess.run(
        ["ip", "-n", node, "-o", "link", "show", "type", "veth"], capture_output=True, text=True, check=True
    )
    link = found.stdout.split(":")[1].strip().split("@")[0]
    subprocess.run(["ip", "-n", node, "link", "set", link, state], check=True)


def test_run_in_flight_ends_without_its_raylet(engine: Engine, tmp_path: Path) -> None:
    run, namespace, _ = begin(engine, tmp_path)
    ray = ray_of(engine)
    name = node_of(ray, namespace)
    ray.kill_raylet(next(node for node in ray.nodes() if node.name == name))
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1
    wait_until(lambda: len(ray.nodes()) == 2, "the node is replaced")


def test_short_cut_of_the_line_is_outlasted(engine: Engine, tmp_path: Path) -> None:
    run, namespace, _ = begin(engine, tmp_path, "spot")
    name = node_of(ray_of(engine), namespace)
    cut(name, "down")
    try:
        # Shorter than the fence, longer than a sign of life takes.
        time.sleep(6)
    finally:
        cut(name, "up")
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1
    assert "outputs/of-1" in run.get_file_names()


def test_node_that_stays_cut_off_ends_its_attempt_before_another_begins(engine: Engine, tmp_path: Path) -> None:
    run, namespace, pid = begin(engine, tmp_path, "spot")
    name = node_of(ray_of(engine), namespace)
    was_alive: list[bool] = []

    def has_begun_again() -> bool:
        if not (tmp_path / "up-2").exists():
            return False
        # One that has ended, and that its runner has not seen yet, has no words any more.
        was_alive.append(Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes()))
        return True

    cut(name, "down")
    try:
        wait_until(has_begun_again, "another attempt begins", 120)
        assert was_alive == [False]
        run.wait_for_completion()
    finally:
        cut(name, "up")
    assert run.get_details()["attempt"] == 2
    assert "outputs/of-2" in run.get_file_names()


def test_run_in_flight_ends_without_its_head_and_the_next_waits_for_it(engine: Engine, tmp_path: Path) -> None:
    run, _, _ = begin(engine, tmp_path)
    ray = ray_of(engine)
    ray.kill_head()
    (tmp_path / "go").touch()
    run.wait_for_completion()
    late = engine.submit(tmp_path, "print('late')")
    wait_until(lambda: "Waits for its compute target to answer" in engine.why(late), "it says what it waits for", 120)
    ray.restart_head()
    late.wait_for_completion()


def test_run_that_waits_in_ray_says_what_for_and_can_be_canceled(engine: Engine, tmp_path: Path) -> None:
    config = RayCompute.attach_configuration(ray_of(engine).address, resources={"unheard_of": 1})
    ComputeTarget.attach(engine.workspace, "impossible", config)
    run = engine.submit(tmp_path, "print('never')", compute_target="impossible")
    wait_until(
        lambda: engine.why(run) == "Waits for 1 node with 1 CPU, 1 unheard_of each to come up in Ray.", "it says so"
    )
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"


def test_what_cannot_be_attached_is_told(engine: Engine) -> None:
    for settings, said in (
        ({"address": "", "cpus": 1}, "needs the cluster's address"),
        ({"address": "127.0.0.1:1", "cpus": "many"}, "cpus, gpus and memory_gib are numbers"),
        ({"address": "127.0.0.1:1"}, "127.0.0.1:1 cannot be joined"),
    ):
        with pytest.raises(ComputeTargetException, match=said):
            ComputeTarget.attach(engine.workspace, "wrong", RayCompute.attach_configuration(**settings))  # type: ignore[arg-type]
