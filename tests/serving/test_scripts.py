"""Entry scripts as v1's notebooks wrote them: typed arguments, several models, images, packages, profiles."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Dataset, Environment, Model, Webservice, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.azureml.core.image import ContainerImage
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AciWebservice
from runyard.environments.uv import find_uv
from runyard.errors import WebserviceException
from tests.frameworks.warm_server import warm_server
from tests.serving.asking import get, infer, post
from tests.serving.conftest import Deploy

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("serving-scripts")]

SCRIPTS = Path(__file__).parent / "scripts"
DIGITS, LABELS = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """With what earlier runs of this user have fetched."""
    with warm_server(tmp_path_factory.mktemp("scripts-home")):
        yield Workspace.create("scripts", exist_ok=True)


def packed(name: str, *packages: str) -> Environment:
    """An environment that is built of these."""
    found = Environment(name)
    found.python.conda_dependencies = CondaDependencies.create(pip_packages=packages)
    return found


def here() -> Environment:
    """The tests' own interpreter."""
    found = Environment("as-it-is")
    found.python.user_managed_dependencies = True
    found.python.interpreter_path = sys.executable
    return found


def test_pages_of_an_origin_that_the_environment_names_may_ask_a_script(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def run(data):\n    return data.upper()\n")
    environment = here()
    environment.environment_variables = {"AML_CORS_ORIGINS": "https://my.site"}
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=environment)
    service = deploy("for-pages", [], config, AciWebservice.deploy_configuration(auth_enabled=True))
    preflight = {"Origin": "https://my.site", "Access-Control-Request-Method": "POST"}
    asked = urllib.request.Request(service.scoring_uri, headers=preflight, method="OPTIONS")
    with urllib.request.urlopen(asked, timeout=60) as reply:
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (204, "https://my.site")
    key = {"Authorization": f"Bearer {service.get_keys()[0]}", "Origin": "https://my.site"}
    with urllib.request.urlopen(urllib.request.Request(service.scoring_uri, b"a", key), timeout=60) as reply:
        assert (reply.read(), reply.headers["Access-Control-Allow-Origin"]) == (b'"A"', "https://my.site")
        assert reply.headers["Vary"] == "Origin"


def test_a_script_with_schemas_gets_its_arguments_by_name_and_is_tried_on_its_sample(
    deploy: Deploy, tmp_path: Path
) -> None:
    shutil.copy(SCRIPTS / "score_schema.py", tmp_path)
    environment = packed("schemas", "inference-schema[numpy-support]")
    config = InferenceConfig("score_schema.py", source_directory=str(tmp_path), environment=environment)
    service = deploy("schemas", [], config)
    assert service.run(json.dumps({"scale": 3, "rows": [[1, 2], [3, 4]]})) == [63.0, 129.0]
    for body, said in (
        ({"rows": [[1, 2]]}, "missing: scale"),
        ({"rows": [[1, 2]], "scale": 1, "more": 1}, "unknown: more"),
        ([1], "by name"),
    ):
        status, answer = post(service.scoring_uri, body)
        assert (status, said in answer["error"]) == (400, True), answer
    definitions = get(service.swagger_uri)[1]["definitions"]
    assert definitions["ServiceInput"]["properties"]["scale"] == {"type": "integer", "format": "int64"}
    assert definitions["ServiceInput"]["example"] == {"rows": [[1.0, 2.0]], "scale": 2}
    assert definitions["ServiceOutput"]["example"] == [42.0]
    text = (tmp_path / "score_schema.py").read_text().replace("[[1.0, 2.0]]", "[[1.0, 2.0, 3.0]]")
    (tmp_path / "score_schema.py").write_text(text)
    with pytest.raises(WebserviceException, match="run\\(\\) failed on its own sample"):
        deploy("schemas-wrong", [], config)


SEVERAL = """
import json, os
from azureml.core.model import Model

def init():
    global texts
    root = os.environ["AZUREML_MODEL_DIR"]
    assert os.path.basename(root) == "azureml-models", root
    texts = {}
    for name in ("first", "second"):
        path = Model.get_model_path(name)
        assert os.path.samefile(path, os.path.join(root, name, "1", name + ".txt")), path
        with open(path) as file:
            texts[name] = file.read()

def run(data):
    return texts[json.loads(data)["which"]]
"""


@pytest.fixture(scope="module")
def pair(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Two models of one file each."""
    folder, made = tmp_path_factory.mktemp("pair"), []
    for name in ("first", "second"):
        (folder / f"{name}.txt").write_text(f"I am the {name}")
        made.append(Model.register(workspace, str(folder / f"{name}.txt"), name))
    return made


def test_several_models_of_one_script_lie_where_v1_had_them(
    pair: list[Model], deploy: Deploy, script_folder: Any
) -> None:
    config = InferenceConfig("score.py", source_directory=script_folder(SEVERAL), environment=here())
    service = deploy("several", pair, config)
    assert [service.run(json.dumps({"which": one.name})) for one in pair] == ["I am the first", "I am the second"]


OLD = """
import json
import greeting
from azureml.core.model import Model

def init():
    global text
    with open(Model.get_model_path("first")) as file:
        text = file.read()

def run(raw_data):
    return greeting.of(json.loads(raw_data)["name"]) + text
"""


def test_an_image_of_2018_is_deployed_with_what_lies_beside_its_script(
    workspace: Workspace, pair: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "score.py").write_text(OLD)
    (tmp_path / "greeting.py").write_text("def of(name):\n    return f'Hello {name}. '\n")
    (tmp_path / "conda.yml").write_text("dependencies:\n- python\n- pip:\n  - azureml-defaults\n")
    config = ContainerImage.image_configuration(
        execution_script="score.py", runtime="python", conda_file="conda.yml", dependencies=["greeting.py"]
    )
    image = ContainerImage.create(workspace=workspace, name="old", models=pair[:1], image_config=config)
    image.wait_for_creation(show_output=True)
    image.add_tags({"team": "blue", "since": 2018})
    image.remove_tags(["team", "absent"])
    image.add_properties({"made": "by hand"})
    with pytest.raises(WebserviceException, match="'made' is there already"):
        image.add_properties({"made": "otherwise"})
    assert (image.tags, image.properties) == ({"since": "2018"}, {"made": "by hand"})
    service = Webservice.deploy_from_image(workspace=workspace, name="old", image=image)
    service.wait_for_deployment()
    assert service.run(json.dumps({"name": "Ada"})) == "Hello Ada. I am the first"
    service.delete()


def start_package(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Follow the Dockerfile's own steps on this machine; (supervisor, address)."""
    dockerfile = (folder / "Dockerfile").read_text()
    (steps,) = [one for one in dockerfile.replace("\\\n", " ").splitlines() if one.startswith("RUN uv venv")]
    venv_words, install_words = [one.split() for one in steps.removeprefix("RUN ").split("&&")]
    paths = {"/opt/model": str(folder / "model"), "/opt/requirements.txt": str(folder / "requirements.txt")}
    for words in (venv_words, install_words):
        told = [find_uv(), *words[1:]]
        for path, other in paths.items():
            told = [one.replace(path, other) for one in told]
        subprocess.run(told, check=True, capture_output=True)
    revision = folder / "service" / "revisions" / "1" / "revision.json"
    revision.write_text(revision.read_text().replace("/opt/model", str(folder / "model")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    wanted = folder / "service" / "wanted.json"
    told = json.loads(wanted.read_text())
    wanted.write_text(json.dumps({**told, "host": "127.0.0.1", "port": port}))
    command = [sys.executable, "-m", "runyard.serving", str(folder / "service")]
    return subprocess.Popen(command, cwd="/"), f"http://127.0.0.1:{port}"


def wait_until_ready(folder: Path, base: str, supervisor: subprocess.Popen[bytes]) -> None:
    """Within a minute."""
    until, log = time.monotonic() + 60, folder / "service" / "log.txt"
    while time.monotonic() < until:
        assert supervisor.poll() is None, "the supervisor has ended"
        assert not (log.exists() and "revision 1 failed" in log.read_text()), log.read_text()
        try:
            if get(base + "/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_package_without_code_serves_without_a_server(
    workspace: Workspace, trained: dict[str, Model], tmp_path: Path
) -> None:
    package = Model.package(workspace, [trained["linear"]])
    package.wait_for_creation(show_output=True)
    package.save(str(tmp_path / "image"))
    supervisor, base = start_package(tmp_path / "image")
    try:
        wait_until_ready(tmp_path / "image", base, supervisor)
        assert post(base + "/score", {"data": DIGITS[:3].tolist()}) == (200, {"predict": LABELS[:3].tolist()})
        assert infer(base, "linear", data=("FP64", DIGITS[:3].tolist()))["predict"] == LABELS[:3].tolist()
    finally:
        supervisor.terminate()
        supervisor.wait(20)


def test_a_package_with_a_script_and_two_models_serves_without_a_server(
    workspace: Workspace, pair: list[Model], tmp_path: Path, script_folder: Any
) -> None:
    # Not the numpy that this process has: the model's own packages are found, and not those of the server.
    environment = packed("packaged", "numpy==2.0.2")
    environment.environment_variables["SAYS"] = '{"app": 1}'
    script = SEVERAL.replace(
        "    return",
        "    import numpy, os\n    assert numpy.__version__ == '2.0.2'\n"
        "    assert os.environ['SAYS'] == '{\"app\": 1}'\n    return",
    )
    config = InferenceConfig("score.py", source_directory=script_folder(script), environment=environment)
    Model.package(workspace, pair, config).save(str(tmp_path / "image"))
    supervisor, base = start_package(tmp_path / "image")
    try:
        wait_until_ready(tmp_path / "image", base, supervisor)
        assert post(base + "/score", {"which": "second"}) == (200, "I am the second")
    finally:
        supervisor.terminate()
        supervisor.wait(20)


def test_a_profile_measures_what_a_service_takes(
    workspace: Workspace, pair: list[Model], tmp_path: Path, script_folder: Any
) -> None:
    config = InferenceConfig("score.py", source_directory=script_folder(SEVERAL), environment=here())
    (tmp_path / "requests.csv").write_text('body\n"{""which"": ""first""}"\n"{""which"": ""second""}"\n')
    samples = Dataset.Tabular.from_delimited_files(str(tmp_path / "requests.csv"))
    profile = Model.profile(workspace, "measured", pair, config, input_dataset=samples, cpu=1, memory_in_gb=0.5)
    profile.wait_for_completion(show_output=True)
    details = profile.get_details()
    assert (details["state"], details["requestedCpu"], details["requestedMemoryInGB"]) == ("Succeeded", 1, 0.5)
    assert details["totalQueries"] == details["successQueries"] >= 6
    assert 0 < details["latencyPercentile50InMs"] <= details["maxLatencyInMs"]
    # A Python with a script takes some ten megabytes at least.
    assert 0.005 < details["maxUtilizedMemory"] < details["recommendedMemoryInGB"]
    assert [one.name for one in Webservice.list(workspace) if one.name.startswith("profile-")] == []
