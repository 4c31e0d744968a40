"""What a run can rely on, whichever engine carries it out: the same tests against each."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Environment, Experiment, Model
from runyard.azureml.core.compute import AmlCompute, ComputeTarget, SlurmCompute
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from runyard.azureml.core.webservice import AksWebservice
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.azureml.exceptions import ComputeTargetException, UserErrorException
from runyard.environments.confinement import why_not
from runyard.sdk.session import current_server
from tests.engines.engines import TARGET, Engine, here, make_engine, wait_until
from tests.engines.ray_cluster import RAY, RAY_HERE
from tests.engines.sshd import SSHD
from tests.environments.packages import make_wheel, source_of
from tests.own_server import log_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ENGINES = [
    pytest.param("local", marks=pytest.mark.xdist_group("engine-local")),
    pytest.param(
        "slurm",
        marks=[
            pytest.mark.xdist_group("slurm"),
            pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm"),
        ],
    ),
    pytest.param("ray", marks=RAY),
    # A Ray that the server starts by itself.
    pytest.param("ray-here", marks=RAY_HERE),
    pytest.param("ssh", marks=SSHD),
]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
def two_nodes(engine: Engine) -> Engine:
    if engine.nodes < 2:
        pytest.skip(f"a target of {engine.kind!r} is one node")
    return engine


def test_run_logs_metrics_and_makes_outputs(engine: Engine, tmp_path: Path) -> None:
    script = (
        "import os\nfrom azureml.core import Run\nrun = Run.get_context()\nrun.log('x', 1.5)\n"
        "print('said', os.environ['AZUREML_TARGET_TYPE'])\n"
        "open('outputs/made.txt', 'w').write('made')\n"
    )
    run = engine.submit(tmp_path, script)
    run.wait_for_completion()
    assert run.get_metrics() == {"x": 1.5}
    kinds = {
        "local": "AmlCompute",
        "slurm": "SlurmCompute",
        "ray": "RayCompute",
        "ray-here": "RayCompute",
        "ssh": "VirtualMachine",
    }
    assert log_of(run, tmp_path) == f"said {kinds[engine.kind]}\n"
    run.download_file("outputs/made.txt", str(tmp_path / "made.txt"))
    assert (tmp_path / "made.txt").read_text() == "made"


SCORES = """
import json, os
def run(data):
    return [json.loads(data), os.environ.get("AZUREML_TARGET_TYPE"), os.environ.get("AZUREML_RUN_ID")]
"""


def test_replicas_of_a_service_are_runs_there(engine: Engine, tmp_path: Path) -> None:
    """Of an engine beside this host; else they are processes of the server's."""
    target = engine.workspace.compute_targets[TARGET]
    (tmp_path / "score.py").write_text(SCORES)
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=here())
    if engine.kind in ("ssh", "ray", "ray-here"):
        many = AksWebservice.deploy_configuration(num_replicas=engine.nodes + 1)
        with pytest.raises(UserErrorException, match=f"at most {engine.nodes} nodes, not {engine.nodes + 1}"):
            Model.deploy(engine.workspace, "elsewhere", [], config, many, target)
    service = Model.deploy(engine.workspace, "elsewhere", [], config, deployment_target=target)
    try:
        service.wait_for_deployment(timeout_sec=120)
        answer, kind, run_id = service.run("7")
        assert (answer, service._record.spec.deployment.target) == (7, "" if engine.kind == "local" else TARGET)
        assert (kind is None) == (engine.kind == "local")
        assert [one.run_id for one in service._record.replica_runs] == ([] if run_id is None else [run_id])
    finally:
        service.delete()
    if run_id is not None:
        run = next(one for one in Experiment(engine.workspace, "services").get_runs() if one.id == run_id)
        assert run.get_status() in ("Completed", "Canceled")
        wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_failing_script_is_told_with_its_traceback(engine: Engine, tmp_path: Path) -> None:
    run = engine.submit(tmp_path, "raise ValueError('of its own')")
    run.wait_for_completion(raise_on_error=False)
    error = run.get_details()["error"]["error"]
    assert run.get_status() == "Failed"
    assert error["message"] == "'script.py' ended with exit code 1: ValueError: of its own"


def test_cancel_ends_a_running_script(engine: Engine, tmp_path: Path) -> None:
    run = engine.submit(tmp_path, "import time\nopen('outputs/kept', 'w').write('x')\ntime.sleep(1000)")
    wait_until(lambda: run.get_status() == "Running", "it runs")
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    assert "outputs/kept" in run.get_file_names()
    wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_run_that_waits_says_what_for_and_can_be_canceled(engine: Engine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
    both = {"node_count": engine.nodes, "distribution": PyTorchConfiguration(node_count=engine.nodes)}
    first = engine.submit(tmp_path, script, **both)
    try:
        wait_until(lambda: first.get_status() == "Running", "it runs on all nodes")
        second = engine.submit(tmp_path, "print('second')")
        third = engine.submit(tmp_path, "print('third')")
        busy = "its one is busy" if engine.nodes == 1 else f"all {engine.nodes} are busy"
        expected = "Waits in Slurm's queue" if engine.kind == "slurm" else busy
        wait_until(lambda: expected in engine.why(third), "the last says what it waits for")
        third.cancel()
        third.wait_for_completion(raise_on_error=False)
        assert third.get_status() == "Canceled"
    finally:
        go.touch()
    first.wait_for_completion()
    second.wait_for_completion()


def test_data_comes_and_goes(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("of the store")
    store = engine.workspace.get_default_datastore()
    store.upload(str(tmp_path / "data"), "conformance", overwrite=True)
    data = Dataset.File.from_files((store, "conformance/a.txt")).as_named_input("data").as_download()
    made = OutputFileDatasetConfig("made", (store, f"made-{engine.kind}"))
    script = (
        "import os, sys\nfolder, out = sys.argv[1:]\nfound = open(os.path.join(folder, 'a.txt')).read()\n"
        "open(os.path.join(out, 'b.txt'), 'w').write(found.upper())\n"
    )
    run = engine.submit(tmp_path, script, data, made)
    run.wait_for_completion()
    store.download(str(tmp_path / "back"), f"made-{engine.kind}")
    assert (tmp_path / "back" / f"made-{engine.kind}" / "b.txt").read_text() == "OF THE STORE"


def test_environment_is_built_where_it_is_needed(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    make_wheel(tmp_path / "wheels", "tiny", "1.0", body="VALUE = 'tiny is here'\n")
    environment = Environment("tiny")
    environment.python.conda_dependencies.set_python_version("{}.{}".format(*sys.version_info[:2]))
    environment.python.conda_dependencies.set_pip_requirements([*source_of(tmp_path / "wheels"), "tiny"])
    run = engine.submit(tmp_path, "import sys, tiny\nprint(tiny.VALUE, sys.prefix)", environment=environment)
    run.wait_for_completion()
    said = log_of(run, tmp_path)
    assert said.startswith("tiny is here ")
    assert ("/node/envs/" in said) == (engine.kind != "local")


TELLS = """
import json, os
from azureml.core import Run
names = ("TF_CONFIG", "RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "AZ_BATCHAI_TASK_INDEX")
rank = os.environ["RUNYARD_RANK"]
open("outputs/%s.json" % rank, "w").write(json.dumps({name: os.environ.get(name) for name in names}))
Run.get_context().log("rank", int(rank))
"""


def told(run: object, tmp_path: Path, rank: int) -> dict[str, str]:
    run.download_file(f"outputs/{rank}.json", str(tmp_path / f"{rank}.json"))  # type: ignore[attr-defined]
    found: dict[str, str] = json.loads((tmp_path / f"{rank}.json").read_text())
    return found


def test_tensorflow_on_two_nodes(two_nodes: Engine, tmp_path: Path) -> None:
    asked = TensorflowConfiguration(worker_count=2, parameter_server_count=1)
    run = two_nodes.submit(tmp_path, TELLS, node_count=2, distribution=asked)
    run.wait_for_completion()
    configs = [json.loads(told(run, tmp_path, rank)["TF_CONFIG"]) for rank in range(2)]
    assert configs[0]["cluster"] == configs[1]["cluster"]
    assert {kind: len(found) for kind, found in configs[0]["cluster"].items()} == {"worker": 2, "ps": 1}
    assert [one["task"] for one in configs] == [{"type": "worker", "index": rank} for rank in range(2)]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="tests/system-packages.sh installs Open MPI")
def test_mpi_on_two_nodes(two_nodes: Engine, tmp_path: Path) -> None:
    asked = MpiConfiguration(process_count_per_node=2, node_count=2)
    run = two_nodes.submit(tmp_path, TELLS, node_count=2, distribution=asked)
    run.wait_for_completion()
    found = [told(run, tmp_path, rank) for rank in range(4)]
    assert [one["OMPI_COMM_WORLD_RANK"] for one in found] == ["0", "1", "2", "3"]
    assert {one["OMPI_COMM_WORLD_SIZE"] for one in found} == {"4"}
    assert sorted(run.get_metrics()["rank"]) == [0, 1, 2, 3]


def test_pytorch_on_two_nodes(two_nodes: Engine, tmp_path: Path) -> None:
    asked = PyTorchConfiguration(process_count=4, node_count=2)
    run = two_nodes.submit(tmp_path, TELLS, node_count=2, distribution=asked)
    run.wait_for_completion()
    found = [told(run, tmp_path, rank) for rank in range(4)]
    assert [(one["RANK"], one["WORLD_SIZE"]) for one in found] == [(str(rank), "4") for rank in range(4)]
    wait_until(lambda: two_nodes.is_clean(run), "nothing is left")


def test_killed_runner_is_told_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    run = engine.submit(tmp_path, "import time\nprint('up', flush=True)\ntime.sleep(1000)")
    # A confined script ends with its runner, whatever it has not said yet.
    wait_until(lambda: "up" in str(run.get_details_with_logs().get("logFiles")), "it runs")
    os.kill(engine.runner_pid(run), signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "The process that supervised the run was killed" in run.get_details()["error"]["error"]["message"]
    assert log_of(run, tmp_path) == "up\n"
    wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_server_that_is_started_again_loses_no_run(engine: Engine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        "import os, time\nfrom azureml.core import Run\nRun.get_context().log('x', 1)\n"
        f"while not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
    )
    run = engine.submit(tmp_path, script)
    wait_until(lambda: run.get_status() == "Running", "it runs")
    engine.restart_server()
    go.touch()
    run.wait_for_completion()
    assert (run.get_metrics(), run.get_details()["attempt"]) == ({"x": 1}, 1)


def test_target_answers_what_code_asks_of_any_target_of_v1(engine: Engine, tmp_path: Path) -> None:
    target = ComputeTarget(engine.workspace, TARGET)
    other = SlurmCompute if engine.kind == "local" else AmlCompute
    with pytest.raises(ComputeTargetException, match=f"is no {other.__name__}"):
        other(engine.workspace, TARGET)
    target.wait_for_completion(show_output=True, min_node_count=0, timeout_in_minutes=20)
    target.wait_for_completion(is_delete_operation=True)
    wait_until(lambda: not list(target.get_active_runs()), "no run uses it")
    run = engine.submit(tmp_path, "import time\ntime.sleep(600)\n")
    wait_until(lambda: run.get_status() == "Running", "the script runs")
    status = target.get_status()
    assert status.serialize()["provisioningState"] == status.provisioning_state == "Succeeded"
    # Slurm's nodes are Slurm's own.
    busy = 0 if engine.kind == "slurm" else 1
    assert status.node_state_counts.running_node_count == busy
    assert [one["runId"] for one in target.list_nodes() if one["runId"]] == [run.id] * busy
    assert all(
        {"nodeId", "port", "publicIpAddress", "privateIpAddress", "nodeState"} < set(n) for n in target.list_nodes()
    )
    assert (target.vm_size is None) == (engine.kind != "local")
    run.cancel()
    run.wait_for_completion(raise_on_error=False)


def test_bounds_of_a_target_change_as_its_messages_say(engine: Engine, tmp_path: Path) -> None:
    """What a message names can be done; where nothing can, the message says what else helps."""
    target = ComputeTarget(engine.workspace, TARGET)
    nodes = 2000 if engine.kind == "slurm" else 3
    with pytest.raises(UserErrorException) as refused:
        engine.submit(tmp_path, "pass", distribution=PyTorchConfiguration(node_count=nodes))
    can_grow = engine.kind in ("local", "ray", "ray-here")
    assert (f"update(max_nodes={nodes})" in str(refused.value)) == can_grow
    if not can_grow:
        with pytest.raises(ComputeTargetException, match=r"one machine|own queue"):
            target.update(max_nodes=nodes)
        return
    target.update(max_nodes=nodes)
    assert target.get_status().scale_settings.maximum_node_count == nodes
    target.update(max_nodes=2)
    if engine.kind != "local":
        with pytest.raises(ComputeTargetException, match="max_nodes alone"):
            target.update(min_nodes=1)


HIDDEN = """
import os, sys
from azureml.core import Run
run = Run.get_context()
found = [os.path.join(top, name) for top, _, names in os.walk(sys.argv[1]) for name in names]
run.log("foreign", sum(name.endswith("secret") for name in found))
run.log("pids", len([one for one in os.listdir("/proc") if one.isdigit()]))
"""


@pytest.mark.skipif(bool(why_not()), reason="bubblewrap does not work here")
def test_job_finds_nothing_of_others_on_its_node(engine: Engine, tmp_path: Path) -> None:
    """Where nobody has asked for anything."""
    folder = engine.home if engine.kind == "local" else engine.node_folder
    others = [folder / name / "secret" for name in ("runs-1/other/1", "envs/other", "store")]
    for one in others:
        one.parent.mkdir(parents=True, exist_ok=True)
        one.write_text("of somebody else")
    run = engine.submit(tmp_path, HIDDEN, str(folder))
    run.wait_for_completion()
    assert run.get_metrics()["foreign"] == 0
    assert run.get_metrics()["pids"] < 10


EVICTED = """
import os, signal, sys, time
if os.path.exists("outputs/checkpoint"):
    print("found", open("outputs/checkpoint").read(), "in attempt", os.environ["AZUREML_RUN_ATTEMPT"])
    sys.exit(0)
def end(*_):
    with open("outputs/checkpoint", "w") as file:
        file.write("step 7, told by " + str(os.path.exists(os.environ["AZUREML_EVICTION_NOTICE"])))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1], "w").close()
time.sleep(1000)
"""


def test_evicted_run_goes_on_from_its_checkpoint(engine: Engine, tmp_path: Path) -> None:
    if engine.kind == "slurm":
        pytest.skip("Slurm takes nodes away itself: test_slurm_faults.py")
    ready = tmp_path / "ready"
    run = engine.submit(tmp_path, EVICTED, str(ready), max_infrastructure_retries=1)
    wait_until(ready.exists, "it can write a checkpoint")
    target = ComputeTarget(engine.workspace, TARGET)
    (node,) = [one for one in target.list_nodes() if one["runId"] == run.id]
    names = {"workspace": engine.workspace.name, "name": target.name}
    current_server().call("remove_node", None, {"evict": 1}, node=node["nodeId"].rpartition("/")[2], **names)
    run.wait_for_completion()
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().endswith("found step 7, told by True in attempt 2\n")
    assert run.attempt == 2
