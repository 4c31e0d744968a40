"""Environments that are images, built and run by a real engine: podman, and Docker's own client where it is here."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.environment import DockerBuildContext
from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration
from runyard.environments.engine import get_engine, remove
from runyard.runner.container import remove_arguments
from tests.environments.containers import IMAGE, docker_socket, make_image, podman, podman_settings
from tests.environments.packages import make_wheel, source_of
from tests.own_server import own_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("containers"),
    # An image is built and started without any cache of the machine's own: minutes on a busy one.
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("podman") is None, reason="tests/system-packages.sh installs podman"),
]

HERE = "{}.{}".format(*sys.version_info[:2])

SCRIPT = """
import json, os, sys
from azureml.core import Run
run = Run.get_context()
run.log("answer", 42)
os.makedirs("outputs", exist_ok=True)
def can_write(path):
    try:
        open(path, "a").close()
        return True
    except OSError:
        return False
data = os.environ.get("AZUREML_DATAREFERENCE_data", "")
files = [os.path.join(top, name) for top, _, names in os.walk(data) for name in names]
facts = {
    "made_by": os.environ.get("MADE_BY"), "uid": os.getuid(), "parent": os.getppid(), "prefix": sys.prefix,
    "home_is_writable": can_write(os.path.join(os.environ["HOME"], "x")), "multi": os.environ.get("MULTI"),
    "path": os.environ["PATH"], "library": os.environ.get("LD_LIBRARY_PATH"), "arguments": sys.argv[1:],
    "read": [open(one).read() for one in files], "can_write_data": [can_write(one) for one in files],
    "sees_home": os.path.exists(os.environ["RUNYARD_TEST_HOME"] + "/runyard.db"),
}
try:
    import tiny
    facts["tiny"] = tiny.__file__
except ImportError:
    facts["tiny"] = None
json.dump(facts, open("outputs/facts.json", "w"))
print("said in the container")
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("podman")
    variables = podman_settings(folder)
    make_image(folder, variables)
    with pytest.MonkeyPatch.context() as patch:
        for name, text in variables.items():
            patch.setenv(name, text)
        patch.setenv("RUNYARD_ENGINE", "podman")
        yield variables


@pytest.fixture(scope="module")
def workspace(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("containers-home")):
        yield Workspace.create("boxes", exist_ok=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    return folder


def run_in(workspace: Workspace, environment: Environment, source: Path, *arguments: object) -> Run:
    environment.environment_variables.update({"MULTI": "two\nlines", "RUNYARD_TEST_HOME": os.environ["RUNYARD_HOME"]})
    config = ScriptRunConfig(str(source), "train.py", list(arguments), environment=environment)
    return Experiment(workspace, "boxes").submit(config)


def facts_of(run: Run, tmp_path: Path) -> dict[str, object]:
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", str(run.get_details_with_logs())
    run.download_file("outputs/facts.json", str(tmp_path / "facts.json"))
    found: dict[str, object] = json.loads((tmp_path / "facts.json").read_text())
    return found


def test_script_runs_in_its_image_with_its_data(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("kept")
    store = workspace.get_default_datastore()
    store.upload(str(tmp_path / "data"), "boxes", overwrite=True)
    data = Dataset.File.from_files((store, "boxes/a.txt")).as_named_input("data").as_mount()
    run = run_in(workspace, Environment.from_docker_image("small", IMAGE), source, "--data", data)
    found = facts_of(run, tmp_path)
    assert (found["made_by"], found["uid"], found["prefix"]) == ("test", os.getuid(), sys.base_prefix)
    assert (found["read"], found["can_write_data"]) == (["kept"], [False])
    assert (found["multi"], found["home_is_writable"], found["library"]) == ("two\nlines", True, None)
    assert found["path"] == "/usr/local/bin:/usr/bin:/bin"
    assert found["sees_home"] is False, "of the home, the container has the attempt's folders and the data"
    assert run.get_metrics() == {"answer": 42}
    assert podman({}, "ps", "--all", "--quiet") == ""


def test_packages_go_into_the_image(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    make_wheel(tmp_path / "wheels", "tiny", "1.0")
    wheel = make_wheel(tmp_path, "private", "1.0", body="import tiny\n")
    name = Environment.add_private_pip_wheel(workspace, str(wheel))
    environment = Environment.from_docker_image("packages", IMAGE)
    environment.python.user_managed_dependencies = False
    environment.python.conda_dependencies.set_python_version(HERE)
    environment.python.conda_dependencies.set_pip_requirements([*source_of(tmp_path / "wheels"), "tiny", name])
    (source / "train.py").write_text("import private\n" + SCRIPT)
    run = run_in(workspace, environment, source)
    found = facts_of(run, tmp_path)
    assert str(found["tiny"]).startswith(f"{found['prefix']}/lib/python{HERE}/site-packages/")
    assert str(found["prefix"]).startswith("/azureml-envs/")
    details = environment.get_image_details(workspace)
    assert (details["builder"], details["packages"]) == ("docker", [f"private @ {name}", "tiny==1.0"])
    assert details["builderWhy"] == f"Built by podman, as an image: the environment names the image {IMAGE}."
    tag = f"localhost/runyard/env:{details['digest'][:32]}"
    assert podman({}, "run", "--rm", "--entrypoint", "/bin/sh", tag, "-c", "echo /opt/runyard*") == "/opt/runyard*"
    assert [one["tiny"] for one in [facts_of(run_in(workspace, environment, source), tmp_path)]] == [found["tiny"]]


def test_dockerfile_and_build_context_make_the_image(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    text = f'FROM {IMAGE}\nENV MADE_BY=dockerfile\nRUN ["python", "-c", "print(1 + 1)"]\n'
    found = facts_of(run_in(workspace, Environment.from_dockerfile("file", text), source), tmp_path)
    assert found["made_by"] == "dockerfile"
    (tmp_path / "context" / "sub").mkdir(parents=True)
    (tmp_path / "context" / "sub" / "tiny.py").write_text("")
    (tmp_path / "context" / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY sub /lib-of-mine\nENV MADE_BY=context\n")
    context = DockerBuildContext.from_local_directory(workspace, str(tmp_path / "context"))
    environment = Environment.from_docker_build_context("context", context)
    kept = Environment.get(workspace, environment.register(workspace).name or "")
    kept.environment_variables["PYTHONPATH"] = "/lib-of-mine"
    found = facts_of(run_in(workspace, kept, source), tmp_path)
    assert (found["made_by"], found["tiny"]) == ("context", "/lib-of-mine/tiny.py")


def test_image_that_cannot_be_had_fails_the_run_with_its_name(workspace: Workspace, source: Path) -> None:
    run = run_in(workspace, Environment.from_docker_image("none", "localhost:1/nowhere:1"), source)
    run.wait_for_completion(raise_on_error=False)
    assert "The image localhost:1/nowhere:1 cannot be fetched" in str(run.get_details()["error"])
    text = f'FROM {IMAGE}\nRUN ["python", "-c", "raise SystemExit(\'broken by its author\')"]\n'
    run = run_in(workspace, Environment.from_dockerfile("broken", text), source)
    run.wait_for_completion(raise_on_error=False)
    assert "The image cannot be built by podman" in str(run.get_details()["error"])
    assert "broken by its author" in str(run.get_details()["error"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
def test_exit_code_of_the_script_is_the_run_s(workspace: Workspace, source: Path, body: str, said: str) -> None:
    (source / "train.py").write_text(body)
    run = run_in(workspace, Environment.from_docker_image("small", IMAGE), source)
    run.wait_for_completion(raise_on_error=False)
    assert said in str(run.get_details()["error"])


WAITS = """
import signal, sys, time
def end(*_):
    print("told to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end if sys.argv[1] == "hears" else signal.SIG_IGN)
print("started", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize("manner", ["hears", "ignores"])
def test_canceled_run_leaves_no_container(workspace: Workspace, source: Path, manner: str) -> None:
    (source / "train.py").write_text(WAITS)
    run = run_in(workspace, Environment.from_docker_image("small", IMAGE), source, manner)
    wait_for(lambda: "started" in log_of(run))
    assert podman({}, "ps", "--quiet") != ""
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    assert ("told to end" in log_of(run)) == (manner == "hears")
    assert podman({}, "ps", "--all", "--quiet") == ""


def test_killed_runner_s_container_is_ended_too(workspace: Workspace, source: Path) -> None:
    (source / "train.py").write_text(WAITS)
    run = run_in(workspace, Environment.from_docker_image("small", IMAGE), source, "ignores")
    wait_for(lambda: "started" in log_of(run))
    (record,) = Path(os.environ["RUNYARD_HOME"]).glob(f"runs/{run.id}/*/runner.json")
    os.kill(int(json.loads(record.read_text())["pid"]), signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "supervised the run was killed" in str(run.get_details()["error"])
    assert podman({}, "ps", "--all", "--quiet") == ""


def test_container_that_never_started_is_removed_beside_one_that_is_gone(engine: dict[str, str]) -> None:
    podman({}, "create", "--name", "left", "--pull", "never", IMAGE, "/bin/sleep", "1")
    asked = get_engine("The test removes containers")
    remove(asked, remove_arguments(asked, ["gone", "left"]), 60)
    assert podman({}, "ps", "--all", "--quiet") == ""


RANKS = """
import json, os, socket, sys
rank = os.environ["RUNYARD_RANK"]
facts = {"made_by": os.environ["MADE_BY"], "prefix": sys.prefix, "host": socket.gethostname()}
if os.environ.get("OMPI_COMM_WORLD_SIZE"):
    from mpi4py import MPI
    facts["sum"] = MPI.COMM_WORLD.allreduce(int(rank))
facts["master"] = os.environ["AZ_BATCH_MASTER_NODE"]
json.dump(facts, open(f"outputs/{rank}.json", "w"))
print("said by", rank)
if sys.argv[1:] == [rank]:
    raise ValueError("the data of rank " + rank + " are odd")
"""


@pytest.fixture
def two_nodes(workspace: Workspace, source: Path) -> Iterator[Path]:
    config = AmlCompute.provisioning_configuration(max_nodes=2)
    ComputeTarget.create(workspace, "pair", config).wait_for_completion()
    (source / "train.py").write_text(RANKS)
    yield source
    assert podman({}, "ps", "--all", "--quiet") == ""


def on_two_nodes(workspace: Workspace, source: Path, config: object, *packages: str, arguments: object = None) -> Run:
    environment = Environment.from_docker_image("small", IMAGE)
    if packages:
        environment.python.user_managed_dependencies = False
        environment.python.conda_dependencies.set_python_version(HERE)
        environment.python.conda_dependencies.set_pip_requirements(list(packages))
    asked = ScriptRunConfig(
        str(source), "train.py", arguments, compute_target="pair", environment=environment,
        distributed_job_config=config,
    )  # fmt: skip
    run = Experiment(workspace, "boxes").submit(asked)
    run.wait_for_completion(raise_on_error=False)
    return run


def test_processes_of_two_nodes_are_each_in_a_container(workspace: Workspace, two_nodes: Path, tmp_path: Path) -> None:
    config = PyTorchConfiguration(process_count=4, node_count=2)
    run = on_two_nodes(workspace, two_nodes, config)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    names = {f"outputs/{rank}.json" for rank in range(4)}
    assert names <= set(run.get_file_names())
    run = on_two_nodes(workspace, two_nodes, config, arguments=["2"])
    error = run.get_details()["error"]["error"]["message"]
    assert error.startswith("process 2 on node 1: 'train.py' ended with exit code 1: ValueError")


def test_mpirun_of_an_image_starts_ranks_on_two_nodes(workspace: Workspace, two_nodes: Path, tmp_path: Path) -> None:
    config = MpiConfiguration(process_count_per_node=2, node_count=2)
    run = on_two_nodes(workspace, two_nodes, config, "mpi4py", "openmpi")
    assert run.get_status() == "Completed", str(run.get_details_with_logs())
    for rank in range(4):
        run.download_file(f"outputs/{rank}.json", str(tmp_path / "facts.json"))
        facts = json.loads((tmp_path / "facts.json").read_text())
        assert (facts["made_by"], facts["sum"]) == ("test", 6)


def test_image_without_open_mpi_is_told_so(workspace: Workspace, two_nodes: Path) -> None:
    run = on_two_nodes(workspace, two_nodes, MpiConfiguration(node_count=2))
    assert "its image has none" in run.get_details()["error"]["error"]["message"]


def log_of(run: Run) -> str:
    logs = Path(os.environ["RUNYARD_HOME"]).glob(f"runs/{run.id}/*/std_log.txt")
    stored = run.get_file_names()
    if "user_logs/std_log.txt" in stored:
        return str(run.get_details_with_logs())
    return "".join(one.read_text() for one in logs)


def wait_for(is_so: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("docker") is None, reason="Docker's client is not installed")
def test_docker_s_own_client_builds_and_runs_the_same(
    workspace: Workspace, engine: dict[str, str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker_socket(tmp_path, engine) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        monkeypatch.setenv("RUNYARD_ENGINE", "docker")
        with own_server(tmp_path / "home"):
            with_docker = Workspace.create("docker", exist_ok=True)
            (tmp_path / "wheels").mkdir()
            make_wheel(tmp_path / "wheels", "tiny", "2.0")
            environment = Environment.from_docker_image("docker", IMAGE)
            environment.python.user_managed_dependencies = False
            environment.python.conda_dependencies.set_python_version(HERE)
            environment.python.conda_dependencies.set_pip_requirements([*source_of(tmp_path / "wheels"), "tiny"])
            run = run_in(with_docker, environment, source)
            found = facts_of(run, tmp_path)
            assert (found["made_by"], found["multi"]) == ("test", "two\nlines")
            assert str(found["tiny"]).startswith("/azureml-envs/")
            why = environment.get_image_details(with_docker)["builderWhy"]
            assert why == f"Built by docker, as an image: the environment names the image {IMAGE}."
            (source / "train.py").write_text(WAITS)
            run = run_in(with_docker, environment, source, "ignores")
            wait_for(lambda: "started" in log_of(run))
            run.cancel()
            run.wait_for_completion(raise_on_error=False)
            assert podman({}, "ps", "--all", "--quiet") == ""
