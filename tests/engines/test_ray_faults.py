"""What happens to runs on Ray whose head, raylets, nodes and lines are taken away."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Run
from runyard.azureml.core.compute import ComputeTarget, RayCompute
from runyard.azureml.core.runconfig import PyTorchConfiguration
from runyard.errors import ComputeTargetException
from tests.engines.engines import Engine, make_engine, wait_until, with_prefix
from tests.engines.phases import VARIABLES, phased_run
from tests.engines.ray_cluster import RAY, RayCluster
from tests.engines.ray_nodes import CPUS, processes_of
from tests.own_server import log_of

pytestmark = RAY

#: Another attempt of a run of low priority begins a quarter of a minute after this; one is missed after half a minute.
FENCE_S = 20
#: Says where it runs, logs once it is cut off, and goes on when it is told to; what a second attempt does at once.
WAITS = """
import os, sys, time
from azureml.core import Run
folder, run = sys.argv[1], Run.get_context()
attempt = os.environ["AZUREML_RUN_ATTEMPT"]
def wait(*names):
    while not any(os.path.exists(os.path.join(folder, name)) for name in names):
        time.sleep(0.05)
run.log("begun", int(attempt))
with open(os.path.join(folder, "up-" + attempt + ".new"), "w") as file:
    file.write(os.readlink("/proc/self/ns/net") + " " + str(os.getpid()))
os.rename(file.name, os.path.join(folder, "up-" + attempt))
if attempt == "1":
    wait("cut", "go")
    run.log("cut", 1)
    wait("go")
open("outputs/of-" + attempt, "w").close()
"""
#: One of two ranks, which wait in the first attempt and are done in the second.
PAIR = """
import os, sys, time
attempt, rank = os.environ["AZUREML_RUN_ATTEMPT"], os.environ["RANK"]
with open(os.path.join(sys.argv[1], "new-%s-%s" % (attempt, rank)), "w") as file:
    file.write(os.readlink("/proc/self/ns/net") + " " + str(os.getpid()))
os.rename(file.name, os.path.join(sys.argv[1], "up-%s-%s" % (attempt, rank)))
while attempt == "1":
    time.sleep(0.1)
"""
#: Takes the classes of all actors out of Ray's control store.
FORGETS = """
import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list
ray.init()
keys = _internal_kv_list(b"ActorClass", namespace=b"fun")
for key in keys:
    _internal_kv_del(key, namespace=b"fun")
print(len(keys))
"""
#: Ends once every node that Ray counts as alive is: it may be half a minute late to find one dead.
ANSWERS = """
import ray, time
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init()
@ray.remote(num_cpus=0, max_retries=0)
def here():
    return True
def all_answer():
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [here.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes]
    try:
        return len(nodes) > 1 and all(ray.get(asked, timeout=5))
    except ray.exceptions.RayError:
        return False
while not all_answer():
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_FENCE_SECONDS", str(FENCE_S))
        with make_engine("ray", tmp_path_factory.mktemp("ray-faults"), has_line=True, **VARIABLES) as found:
            ray, folder = ray_of(found), str(found.node_folder)
            # A run of the second one has its node to itself.
            for name, cpus in (("spot", 1), ("whole", CPUS)):
                config = RayCompute.attach_configuration(
                    ray.address, cpus=cpus, max_nodes=2, node_folder=folder, vm_priority="lowpriority"
                )
                ComputeTarget.attach(found.workspace, name, config)
            yield found


def ray_of(engine: Engine) -> RayCluster:
    assert engine.ray is not None
    return engine.ray


def begin(engine: Engine, folder: Path, target: str = "there") -> tuple[Run, str, int]:
    """A run that waits; the network namespace that its script is in, and its process."""
    folder.mkdir(exist_ok=True)
    run = engine.submit(folder, WAITS, str(folder), compute_target=target)
    wait_until((folder / "up-1").exists, "its script runs")
    namespace, pid = (folder / "up-1").read_text().split()
    return run, namespace, int(pid)


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return pid  # It has ended.


def what_is(process: Path) -> str:
    """What a process is that should not be there, and what it waits for."""
    try:
        return "\n".join((process / name).read_text() for name in ("cmdline", "wchan", "status"))
    except OSError as error:
        return repr(error)


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


def run_of(pid: int) -> str:
    """The run of a process that Ray has begun for an attempt."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (key,) = [one for one in variables if one.startswith(b"RUNYARD_RAY_ATTEMPT=")]
    return key.decode().rpartition(":")[2].rpartition("/")[0]


def cut(node: str, state: str) -> None:
    """Take a node off the network, or bring it back."""
    found = subprocess.run(
        ["ip", "-n", node, "-o", "link", "show", "type", "veth"], capture_output=True, text=True, check=True
    )
    link = found.stdout.split(":")[1].strip().split("@")[0]
    subprocess.run(["ip", "-n", node, "link", "set", link, state], check=True)


def replace(ray: RayCluster, name: str) -> None:
    """Have Ray lose a node, unless it has, and wait for the one that comes in its place."""
    for node in ray.nodes():
        if node.name == name:
            ray.kill_raylet(node)
    wait_until(lambda: len(ray.nodes()) == 2, "the node is replaced")


def test_run_in_flight_ends_without_its_raylet(engine: Engine, tmp_path: Path) -> None:
    run, namespace, _ = begin(engine, tmp_path)
    replace(ray_of(engine), node_of(ray_of(engine), namespace))
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1


@pytest.mark.parametrize("victim", ["raylets", "head"])
def test_daemons_killed_in_any_phase_cost_a_run_nothing(engine: Engine, tmp_path: Path, victim: str) -> None:
    """One node prepares itself and another waits for it, while outputs of another run are on their way."""
    ray = ray_of(engine)
    with phased_run(engine, tmp_path / "old") as old:
        old.go_on()
        old.finalize()
        with phased_run(engine, tmp_path / "new", "spot") as new:
            if victim == "head":
                ray.kill_head()
            for node in ray.nodes() if victim == "raylets" else []:
                ray.kill_raylet(node)
            old.complete()
            new.go_on()
            new.finalize()
            new.complete()
    if victim == "head":
        late = engine.submit(tmp_path, "print('late')")
        said = "Waits for its compute target to answer"
        wait_until(lambda: said in engine.why(late), "it says what it waits for")
        ray.restart_head()
        late.wait_for_completion()
    wait_until(lambda: len(ray.nodes()) == 2, "the nodes are there again")


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


def test_network_that_heals_costs_nothing_and_one_that_does_not_an_attempt(engine: Engine, tmp_path: Path) -> None:
    """One run is missed, and heard of again. The node of the other one is cut off until another attempt has begun."""
    assert engine.line is not None
    healing_folder, lost_folder = tmp_path / "healing", tmp_path / "lost"
    healing, _, _ = begin(engine, healing_folder)
    others = engine.line.callers()
    lost, namespace, pid = begin(engine, lost_folder, "whole")
    wait_until(lambda: healing.get_metrics() == lost.get_metrics() == {"begun": 1}, "both are heard of")
    name, runner = node_of(ray_of(engine), namespace), Path(f"/proc/{engine.runner_pid(lost)}")
    was_alive: list[bool] = []

    def has_begun_again() -> bool:
        if not (lost_folder / "up-2").exists():
            return False
        # One that has ended, and that its runner has not seen yet, has no words any more.
        was_alive.append(Path(f"/proc/{pid}/cmdline").exists() and bool(Path(f"/proc/{pid}/cmdline").read_bytes()))
        return True

    engine.line.hold(others)
    cut(name, "down")
    try:
        for folder in (healing_folder, lost_folder):
            (folder / "cut").touch()
        wait_until(lambda: healing.get_status() == lost.get_status() == "NotResponding", "they are missed")
        engine.line.release()
        wait_until(lambda: healing.get_status() == "Running", "one is heard of again")
        (healing_folder / "go").touch()
        wait_until(has_begun_again, "another attempt begins", 200, lambda: (engine.why(lost), lost.get_details()))
        assert was_alive == [False]
        lost.wait_for_completion()
        is_left = runner.exists()
    finally:
        engine.line.release()
        cut(name, "up")
    assert is_left, "until the network heals its runner has not heard that it was given up"
    wait_until(lambda: not runner.exists(), "then it ends, or is ended", 120, lambda: what_is(runner))
    healing.wait_for_completion()
    assert (healing.get_details()["attempt"], healing.get_metrics()) == (1, {"begun": 1, "cut": 1})
    # What the late attempt had to say was not taken.
    assert (lost.get_details()["attempt"], lost.get_metrics()) == (2, {"begun": [1, 2]})
    assert not list(with_prefix("RUNYARD_KEY", f"{lost.id}/"))
    assert engine.is_clean(healing)
    assert "outputs/of-2" in lost.get_file_names()
    assert "outputs/of-1" not in lost.get_file_names()
    # Ray may find the node dead some time after it is back, and take with it what the next test begins there.
    replace(ray_of(engine), name)
    ray_of(engine).run(ANSWERS)


def test_run_whose_node_is_lost_before_its_runner_says_a_word_begins_anew(engine: Engine, tmp_path: Path) -> None:
    """On a dedicated target, and without a retry: nothing of it had begun, and nothing of that attempt ever will."""
    assert engine.line is not None
    known, line = engine.line.callers(), engine.line
    line.hold_new()
    run = engine.submit(tmp_path, "import os\nprint('attempt', os.environ['AZUREML_RUN_ATTEMPT'])")
    try:
        wait_until(lambda: bool(line.callers() - known), "its node asks for it")
        pids = {one for one in with_prefix("RUNYARD_RAY_ATTEMPT", "runyard:") if run_of(one) == run.id}
        # What it starts for a moment has the variable too.
        (pid,) = [one for one in pids if parent_of(one) not in pids]
        (name,) = [one.name for one in ray_of(engine).nodes() if pid in processes_of(one.name)]
        replace(ray_of(engine), name)
        wait_until(lambda: run._refresh().attempt == 2, "it waits again", more=lambda: (engine.why(run), run.attempt))
        assert Path(f"/proc/{pid}").exists(), "it is as late as one can be"
    finally:
        line.release()
    run.wait_for_completion(raise_on_error=False)
    assert (run.get_status(), run.get_details()["attempt"]) == ("Completed", 2), run.get_details()
    assert log_of(run, tmp_path).endswith("attempt 2\n")
    wait_until(lambda: engine.is_clean(run) and not Path(f"/proc/{pid}").exists(), "the late one is gone")


@pytest.mark.parametrize("rank", [1, 0])
def test_run_of_two_nodes_that_loses_one_starts_again_on_two(engine: Engine, tmp_path: Path, rank: int) -> None:
    """The other one is alive, and heard of for ever: nobody waits for what is lost longer than for a single one."""
    asked = PyTorchConfiguration(process_count=2, node_count=2)
    run = engine.submit(tmp_path, PAIR, str(tmp_path), node_count=2, distribution=asked, compute_target="spot")
    wait_until(lambda: all((tmp_path / f"up-1-{one}").exists() for one in range(2)), "both run")
    namespace, _ = (tmp_path / f"up-1-{rank}").read_text().split()
    name = node_of(ray_of(engine), namespace)
    (node,) = [one for one in ray_of(engine).nodes() if one.name == name]
    ray_of(engine).kill_node(node)
    assert list(with_prefix("RUNYARD_KEY", f"{run.id}/1")), "the other one lives"
    wait_until((tmp_path / "up-2-0").exists, "another attempt begins", 150, lambda: (engine.why(run), run.attempt))
    assert not list(with_prefix("RUNYARD_KEY", f"{run.id}/1")), "no two at once"
    run.wait_for_completion(raise_on_error=False)
    assert (run.get_status(), run.get_details()["attempt"]) == ("Completed", 2), run.get_details()
    wait_until(lambda: not list(with_prefix("RUNYARD_KEY", f"{run.id}/")), "no process is left of either attempt")
    # As above: what the next test begins is not to be placed on a node that is dead, and not found to be.
    ray_of(engine).run(ANSWERS)


def test_run_begins_where_ray_has_forgotten_what_is_to_begin(engine: Engine, tmp_path: Path) -> None:
    """As it may after its control store was started again: classes of a job that still lives are gone from it."""
    for number in (1, 2):
        run = engine.submit(tmp_path, "print('begun')")
        run.wait_for_completion()
        assert run.get_details()["attempt"] == 1
        if number == 1:
            assert int(ray_of(engine).run(FORGETS)) > 0


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
