"""Environments as v1's scripts make, keep and build them."""

import base64
import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.core.environment import CondaDependencies, DockerBuildContext, RSection, SparkPackage
from runyard.client.home import home_folder, read_server_file, server_file
from runyard.client.local_server import connect
from runyard.errors import ConflictError, EnvironmentBuildError, IntegrityError, UserErrorException
from runyard.files.processes import is_alive
from runyard.sdk.session import forget_server
from tests.environments.packages import make_wheel, source_of
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

HERE = "{}.{}".format(*sys.version_info[:2])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("environments-home")):
        yield Workspace.create("sdk", exist_ok=True)


@pytest.fixture
def tiny(tmp_path: Path) -> Environment:
    """An environment of one small wheel of this machine."""
    (tmp_path / "wheels").mkdir()
    make_wheel(tmp_path / "wheels", "tiny", "1.0")
    found = Environment("tiny")
    found.python.conda_dependencies.set_python_version(HERE)
    found.python.conda_dependencies.set_pip_requirements([*source_of(tmp_path / "wheels"), "tiny", "azureml-defaults"])
    return found


def test_environment_is_built_ahead_of_its_runs(
    workspace: Workspace, tiny: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserErrorException, match="not built yet"):
        tiny.get_image_details(workspace)
    details = tiny.build(workspace)
    assert details.status in ("Running", "Succeeded")
    details.wait_for_completion(show_output=True)
    assert details.status == "Succeeded"
    found = tiny.get_image_details(workspace)
    assert (found["python"], found["packages"]) == (HERE, ["tiny==1.0"])
    assert found["notes"][0]["subject"] == "azureml-defaults"
    assert tiny.build(workspace).status == "Succeeded", "it is there already"


def restart() -> None:
    """End the server, and wait until it is gone; the next call starts another."""
    record = read_server_file(server_file(home_folder()))
    server = connect()
    server.call("stop_server")
    server.close()
    forget_server()
    ends_at = time.monotonic() + 30
    while record is not None and is_alive(record):
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_private_wheel_is_kept_and_installed(workspace: Workspace, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "secretly", "1.0")
    name = Environment.add_private_pip_wheel(workspace, str(wheel))
    assert re.fullmatch(r"runyard://sdk/files/[0-9a-f]{64}/secretly-1\.0-py3-none-any\.whl", name)
    with pytest.raises(ConflictError, match="exist_ok=True"):
        Environment.add_private_pip_wheel(workspace, str(wheel))
    assert Environment.add_private_pip_wheel(workspace, str(wheel), exist_ok=True) == name
    other = make_wheel(tmp_path, "secretly", "1.0", body="OTHER = 1\n")
    newer = Environment.add_private_pip_wheel(workspace, str(other), exist_ok=True)
    assert newer != name

    restart()
    found = Environment("wheels")
    found.python.conda_dependencies = CondaDependencies.create(python_version=HERE)
    found.python.conda_dependencies.add_pip_package(name)
    found.build(workspace).wait_for_completion(show_output=False)
    details = found.get_image_details(workspace)
    assert details["packages"] == [f"secretly @ {name}"]
    root = Path(os.environ["RUNYARD_HOME"]) / "cache"
    python = root / "envs" / details["digest"] / "bin" / "python"
    answer = subprocess.run([python, "-c", "import secretly; print(secretly.VERSION)"], capture_output=True, check=True)
    assert answer.stdout == b"1.0\n", "the name means the content that was sent under it"


def test_private_wheel_comes_to_another_machine_s_build(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = Environment.add_private_pip_wheel(workspace, str(make_wheel(tmp_path, "elsewhere", "1.0")))
    found = Environment("wheels")
    found.python.conda_dependencies = CondaDependencies.create(python_version=HERE, pip_packages=[name])
    monkeypatch.setattr("runyard.sdk.environment_build.home_folder", lambda: tmp_path / "away")
    assert found.build_local(workspace).status == "Succeeded"
    (copy,) = (tmp_path / "away" / "cache" / "files").glob("*/elsewhere-1.0-py3-none-any.whl")
    copy.write_bytes(b"")
    copy.unlink()
    stored = list(Path(os.environ["RUNYARD_HOME"]).glob("environment-files/sdk/*/elsewhere-*"))
    stored[0].write_bytes(b"poisoned")
    found.python.conda_dependencies.add_pip_package("elsewhere2; python_version<'3'")
    with pytest.raises(IntegrityError, match="elsewhere-1"):
        found.build_local(workspace)


@pytest.mark.parametrize(
    "name", ["tiny.whl", "tiny-1.0.whl", "../tiny-1.0-py3-none-any.whl.exe", "a b-1-py3-none-any.whl"]
)
def test_file_that_can_be_no_wheel_is_refused(workspace: Workspace, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserErrorException, match="is no name of a wheel"):
        Environment.add_private_pip_wheel(workspace, str(tmp_path / name))
    (tmp_path / "tiny-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(UserErrorException, match="no zip archive"):
        Environment.add_private_pip_wheel(workspace, str(tmp_path / "tiny-1.0-py3-none-any.whl"))


def test_build_context_of_elsewhere_is_refused_in_a_sentence(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="cannot be fetched; copy it here"):
        DockerBuildContext("git", "https://github.com/x/y")
    with pytest.raises(UserErrorException, match="holds no 'Dockerfile'"):
        DockerBuildContext.from_local_directory(workspace, str(tmp_path))
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    first, again = (DockerBuildContext.from_local_directory(workspace, str(tmp_path)) for _ in range(2))
    assert first.location == again.location
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserErrorException, match="no plain file"):
        DockerBuildContext.from_local_directory(workspace, str(tmp_path))


def test_password_of_an_index_is_kept_sealed_and_reaches_the_index(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "simple").mkdir()
    with private_index(tmp_path / "simple", "ann", "pass word/9") as (address, asked):
        make_wheel(tmp_path / "simple", "hidden", "1.0")
        found = Environment("private")
        found.python.conda_dependencies = CondaDependencies.create(
            python_version=HERE, pip_packages=["hidden"], pip_indexurl=address.replace("//", "//ann:pass%20word%2F9@")
        )
        found.docker.base_image_registry.address = "registry.example"
        found.docker.base_image_registry.password = "registry-pass"
        kept = found.register(workspace)
        kept.build(workspace).wait_for_completion(show_output=True)
    assert asked == {"ann:pass word/9"}
    details = kept.get_image_details(workspace)
    assert details["packages"] == ["hidden==1.0"]
    text = str(kept._spec()) + str(details) + capfd.readouterr().out
    home = Path(os.environ["RUNYARD_HOME"])
    stored = b"".join(one.read_bytes() for one in home.rglob("*") if one.is_file() and "envs" not in one.parts)
    for secret in ("pass%20word", "pass word/9", "registry-pass"):
        assert secret not in text
        assert secret.encode() not in stored, "neither the database, nor a log, nor a lock has it"
    assert "sealed:" in kept.python.conda_dependencies.serialize_to_string()
    with pytest.raises(EnvironmentBuildError, match="known to the server alone"):
        kept.build_local(workspace)


@contextmanager
def private_index(folder: Path, user: str, password: str) -> Iterator[tuple[str, set[str]]]:
    """An index that answers to one user only; what it was asked with."""
    asked: set[str] = set()
    wanted = base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            if given != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=index")
                self.end_headers()
                return
            asked.add(base64.b64decode(given).decode())
            if self.path.endswith("/hidden/"):
                page = b'<a href="/hidden-1.0-py3-none-any.whl">hidden-1.0-py3-none-any.whl</a>'
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page)
                return
            super().do_GET()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple", asked
        server.shutdown()


def test_failed_build_says_why(workspace: Workspace, tiny: Environment) -> None:
    tiny.python.conda_dependencies.add_pip_package("nowhere")
    details = tiny.build(workspace)
    with pytest.raises(EnvironmentBuildError, match="nowhere"):
        details.wait_for_completion(show_output=False)
    assert details.status == "Failed"


def test_environment_is_built_on_this_machine(
    workspace: Workspace, tiny: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.environment_variables = {"MAKES": "another key, and so a log of its own"}
    assert tiny.build_local(workspace).status == "Succeeded"
    assert f"Resolving for Python {HERE}" in capsys.readouterr().out
    built = list(Path(os.environ["RUNYARD_HOME"]).glob("cache/envs/*/bin/python"))
    assert any(subprocess.run([one, "-c", "import tiny"], check=False).returncode == 0 for one in built)


def test_sections_that_mean_nothing_here_are_kept_and_change_no_build(workspace: Workspace, tiny: Environment) -> None:
    tiny.build(workspace).wait_for_completion(show_output=False)
    tiny.spark.packages = [SparkPackage("com.microsoft.azure", "synapseml", "0.9")]
    tiny.r = RSection()
    tiny.r.cran_packages = [{"name": "caret", "version": "6.0"}]
    kept = Environment.get(workspace, tiny.register(workspace).name or "")
    assert [vars(one) for one in kept.spark.packages] == [
        {"group": "com.microsoft.azure", "artifact": "synapseml", "version": "0.9"}
    ]
    assert kept.r is not None
    assert kept.r.cran_packages == [{"name": "caret", "version": "6.0"}]
    assert kept.get_image_details(workspace)["packages"] == ["tiny==1.0"]


def test_sections_are_saved_and_read_as_v1_s_json(tiny: Environment, tmp_path: Path) -> None:
    tiny.spark.repositories = ["https://mmlspark.azureedge.net/maven"]
    tiny.docker.base_image = "ubuntu:20.04"
    tiny.save_to_directory(str(tmp_path / "saved"))
    tiny.docker.base_image_registry.address = "registry.example"
    tiny.docker.base_image_registry.password = "hidden-word"
    tiny.docker.shared_volumes = False
    tiny.save_to_directory(str(tmp_path / "saved"), overwrite=True)
    assert "hidden-word" not in (tmp_path / "saved" / "azureml_environment.json").read_text()
    found = Environment.load_from_directory(str(tmp_path / "saved"))
    assert (found.docker.base_image_registry.address, found.docker.shared_volumes) == ("registry.example", False)
    assert (found.spark.repositories, found.r) == (["https://mmlspark.azureedge.net/maven"], None)
    assert found.docker.base_image == "ubuntu:20.04"


def test_environment_on_an_image_keeps_image_and_packages(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "conda.yml").write_text("dependencies:\n- python=3.11\n- pip:\n  - six\n")
    (tmp_path / "requirements.txt").write_text("six==1.16.0\n")
    (tmp_path / "Dockerfile").write_text("FROM ubuntu:20.04\nRUN true\n")
    image = Environment.from_docker_image("image", "ubuntu:20.04", conda_specification=str(tmp_path / "conda.yml"))
    assert (image.docker.base_image, image.python.conda_dependencies.python_version) == ("ubuntu:20.04", "3.11")
    file = Environment.from_dockerfile(
        "file", str(tmp_path / "Dockerfile"), pip_requirements=str(tmp_path / "requirements.txt")
    )
    text = Environment.from_dockerfile("text", "FROM ubuntu:20.04\nRUN true\n")
    assert file.docker.base_dockerfile == text.docker.base_dockerfile == "FROM ubuntu:20.04\nRUN true\n"
    assert list(file.python.conda_dependencies.pip_packages) == ["six==1.16.0"]
    kept = Environment.get(workspace, file.register(workspace).name or "")
    assert (kept.docker.base_image, kept.docker.base_dockerfile) == (None, file.docker.base_dockerfile)
    with pytest.raises(UserErrorException, match="not both"):
        Environment.from_docker_image("x", "y", None, str(tmp_path / "conda.yml"), str(tmp_path / "requirements.txt"))
    with pytest.raises(UserErrorException, match="cannot be read"):
        Environment.from_dockerfile("x", str(tmp_path / "nowhere"))


def test_conda_s_environment_is_taken_as_conda_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserErrorException, match="none is on the PATH"):
        Environment.from_existing_conda_environment("mine", "science")
    tool = tmp_path / "conda"
    tool.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "if sys.argv[1:] != ['env', 'export', '--name', 'science', '--no-builds']:\n"
        "    sys.exit('EnvironmentLocationNotFound: Not a conda environment')\n"
        "print('name: science\\ndependencies:\\n- python=3.8.5\\n- numpy=1.19.2\\nprefix: /opt/conda/envs/science')\n"
    )
    tool.chmod(0o755)
    found = Environment.from_existing_conda_environment("mine", "science").python.conda_dependencies
    assert (found.python_version, list(found.conda_packages)) == ("3.8.5", ["python=3.8.5", "numpy=1.19.2"])
    with pytest.raises(UserErrorException, match="Not a conda environment"):
        Environment.from_existing_conda_environment("mine", "other")


def test_conda_s_scikit_learn_trains_in_a_run(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "from azureml.core import Run\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "model = LogisticRegression().fit([[0], [1], [2], [3]], [0, 0, 1, 1])\n"
        "Run.get_context().log('accuracy', model.score([[0], [3]], [0, 1]))\n"
    )
    found = Environment("sklearn")
    found.python.conda_dependencies = CondaDependencies.create(conda_packages=["scikit-learn"], python_version=HERE)
    run = Experiment(workspace, "sklearn").submit(ScriptRunConfig(str(tmp_path), "train.py", environment=found))
    run.wait_for_completion()
    assert run.get_metrics() == {"accuracy": 1.0}
