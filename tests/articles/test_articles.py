"""The articles' code blocks run as they stand: one after the other, in one namespace, as a reader pastes them.

What differs is listed here and nowhere else: the names that the articles leave undefined are supplied, the address of
the digits is this machine's. The conda files are taken as they are printed, and once more with the lines for Python,
TensorFlow and Keras of today.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy
import pytest

from runyard.azureml.core import Environment, Experiment, Model, ScriptRunConfig, Workspace
from runyard.environments.pythons import find_minor
from runyard.errors import WebserviceException
from tests.articles.reader import BLOCKS, OLD_ADDRESS, run_blocks
from tests.own_server import own_server

ROOT = Path(__file__).resolve().parents[2]
MNIST_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]

#: What the articles' pinned lines become for the packages of today; as printed they need a Python of their time.
TODAY = {
    r"python=3\.6\.2": f"python={sys.version_info[0]}.{sys.version_info[1]}",
    r"tensorflow-gpu==2\.\d\.0": "tensorflow-cpu",
    r"keras<=2\.3\.1": "keras",
}
#: The oldest Python that a run can use; every pin of the articles has a wheel for it.
OLD_PYTHON = "3.7"
#: Test digits that are sent to the service.
SCORED = 500

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("articles")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server in a home of its own, started by the SDK itself; stopped at the end."""
    home = tmp_path_factory.mktemp("articles-home")
    with own_server(home):
        yield None


def _stage(folder: Path, article: str, is_printed: bool) -> dict[str, Any]:
    """A reader's folder: the workspace's config from Azure, the conda file of the article, the sample scripts."""
    (folder / "config.json").write_text(
        json.dumps({"subscription_id": "1", "resource_group": "group", "workspace_name": "articles"})
    )
    conda = (BLOCKS / f"{article}_06.yml").read_text()
    for pinned, today in {} if is_printed else TODAY.items():
        conda = re.sub(pinned, today, conda)
    (folder / "conda_dependencies.yml").write_text(conda)
    shutil.copytree(ROOT / "examples" / "train", folder / "scripts")
    return {"script_folder": str(folder / "scripts")}


def _follow(
    article: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, is_printed: bool
) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    numbers = [int(one.name[3:5]) for one in sorted(BLOCKS.glob(f"{article}_*.py.txt"))]
    # Those of several processes, 16 to 18: test_distributed_articles.py.
    numbers = [one for one in numbers if one not in (16, 17, 18)]
    return run_blocks(article, numbers, folder, _stage(folder, article, is_printed), {OLD_ADDRESS: mnist_url})


def _assert_learned(run: Any) -> None:
    assert run.get_status() == "Completed"
    accuracy = [values for name, values in run.get_metrics().items() if "acc" in name.lower()]
    assert accuracy, "the script logs an accuracy"
    last = accuracy[0][-1] if isinstance(accuracy[0], list) else accuracy[0]
    assert float(last) > 0.85


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(params=["as printed", "today"])
def is_printed(request: pytest.FixtureRequest) -> bool:
    """The article's conda file as it stands, or with the packages of today."""
    if request.param == "today":
        return False
    _need_old_python()
    return True


def _need_old_python() -> None:
    if find_minor(OLD_PYTHON) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have Python {OLD_PYTHON}: the articles' pins need it.")
        pytest.skip(f"This host has no Python {OLD_PYTHON}.")


def _script_log(run: Any, folder: Path) -> str:
    run.download_file("user_logs/std_log.txt", str(folder / "std_log.txt"))
    return (folder / "std_log.txt").read_text()


def test_tensorflow_article_runs_from_top_to_end(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, digits: Path, is_printed: bool
) -> None:
    names = _follow("a1", tmp_path, monkeypatch, mnist_url, is_printed)
    run, model = names["run"], names["model"]
    _assert_learned(run)
    if is_printed:
        assert "TensorFlow 2.2.0:" in _script_log(run, tmp_path)
    assert [path.rsplit("/", 1)[-1] for path in names["dataset"].to_path()] == MNIST_FILES
    assert names["dataset"].version >= 1
    assert (model.name, model.model_framework) == ("tf-mnist", "TensorFlow")
    assert model.resource_configuration.memory_in_gb == 0.5
    assert model.run_id == run.id
    assert (tmp_path / "AzureML-TensorFlow-2.2-GPU").is_dir()
    _assert_same_files(run, tmp_path / "model", Path(model.download(str(tmp_path / "registered"))))
    _assert_serves(names["service"], digits, float(run.get_metrics()["final_acc"]))


def _assert_serves(service: Any, digits: Path, reported: float) -> None:
    """By TensorFlow Serving's shape, in the run's environment, as right as the training said."""
    try:
        service.wait_for_deployment(show_output=True)
        assert service.scoring_uri.endswith("/v1/models/tf-mnist:predict")
        assert "environment: that of the run" in service.get_logs()
        images, labels = _test_digits(digits, SCORED)
        body = json.dumps({"instances": (images / 255).tolist()}).encode()
        request = urllib.request.Request(service.scoring_uri, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        share = float((numpy.argmax(answer["predictions"], axis=1) == labels).mean())
        # Four standard deviations of a share of so many digits, and a digit for rounding.
        assert abs(share - reported) < 4 * (reported * (1 - reported) / SCORED) ** 0.5 + 1 / SCORED
        assert service.run(json.dumps({"instances": (images[:1] / 255).tolist()}))
    finally:
        service.delete()


def _test_digits(folder: Path, count: int) -> tuple[Any, Any]:
    """Some of the test digits: drawn, since MNIST's first half is the easier one."""
    with gzip.open(folder / MNIST_FILES[2]) as file:
        images = numpy.frombuffer(file.read(), dtype="uint8", offset=16)
    with gzip.open(folder / MNIST_FILES[3]) as file:
        labels = numpy.frombuffer(file.read(), dtype="uint8", offset=8)
    chosen = numpy.random.default_rng(0).choice(len(labels), min(count, len(labels)), replace=False)
    return images.reshape(len(labels), -1)[chosen].astype("float32"), labels[chosen]


#: A variable, which is read by an operator that 2.2 does not know.
DOUBLES = """
import tensorflow as tf
made, taken = tf.Module(), tf.TensorSpec([None], tf.float32, name="x")
made.factor = tf.Variable(2.0)
made.double = tf.function(lambda x: {"y": x * made.factor}, input_signature=[taken])
tf.saved_model.save(made, "outputs/doubles", signatures=made.double)
"""


def test_a_model_of_todays_tensorflow_says_why_that_of_the_article_cannot_serve_it(
    server: None, tmp_path: Path
) -> None:
    _need_old_python()
    ws = Workspace.create("articles", exist_ok=True)
    runs = []
    for name, today in (("new", TODAY), ("old", {})):
        conda = (BLOCKS / "a1_06.yml").read_text()
        for pinned, replaced in today.items():
            conda = re.sub(pinned, replaced, conda)
        (tmp_path / "conda.yml").write_text(conda)
        (tmp_path / name).mkdir()
        (tmp_path / name / "save.py").write_text(DOUBLES)
        environment = Environment.from_conda_specification(name, str(tmp_path / "conda.yml"))
        runs.append(
            Experiment(ws, "versions").submit(ScriptRunConfig(str(tmp_path / name), "save.py", environment=environment))
        )
    for run in runs:
        run.wait_for_completion()
    new, old = runs
    new.download_files("outputs/doubles", str(tmp_path / "model"), append_prefix=False)
    old.upload_folder("outputs/from-today", str(tmp_path / "model"))
    model = old.register_model("from-today", "outputs/from-today", model_framework="TensorFlow")
    service = Model.deploy(ws, "from-today", [model])
    try:
        with pytest.raises(
            WebserviceException, match=r"TensorFlow 2\.2\.0 could not load this SavedModel, which TensorFlow 2\.\d\d"
        ) as refused:
            service.wait_for_deployment()
        # The framework's own sentence goes before ours.
        assert re.search(r"ValueError: \S.* -- TensorFlow 2\.2\.0 could not", str(refused.value))
        assert "TensorFlow 2.2.0 loads a SavedModel that TensorFlow 2." in service.get_logs()
    finally:
        service.delete()


def _assert_same_files(run: Any, downloaded: Path, registered: Path) -> None:
    """What was downloaded from the run is what was registered, byte for byte."""
    found = {str(path.relative_to(downloaded)): _digest(path) for path in downloaded.rglob("*") if path.is_file()}
    kept = {str(path.relative_to(registered)): _digest(path) for path in registered.rglob("*") if path.is_file()}
    names = [name[len("outputs/model/") :] for name in run.get_file_names() if name.startswith("outputs/model/")]
    assert names
    assert found == kept
    assert sorted(found) == sorted(names)


def test_keras_article_runs_from_top_to_end(
    server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mnist_url: str,
    capsys: pytest.CaptureFixture[str],
    is_printed: bool,
) -> None:
    names = _follow("a2", tmp_path, monkeypatch, mnist_url, is_printed)
    run, model = names["run"], names["model"]
    _assert_learned(run)
    if is_printed:
        assert "Keras 2.3.1 on TensorFlow 2.0.0:" in _script_log(run, tmp_path)
    assert run.experiment.name == "Tutorial-Keras-Minst"
    assert model.name == "keras-mnist"
    shown = capsys.readouterr().out
    assert f"RunId: {run.id}" in shown
    assert "Streaming user_logs/std_log.txt\n===============================" in shown
    assert "Execution Summary\n=================" in shown
    for name in (name for name in run.get_file_names() if name.startswith("outputs/model")):
        assert _digest(tmp_path / "model" / os.path.basename(name)) in {
            _digest(path)
            for path in Path(model.download(str(tmp_path / "again"), exist_ok=True)).rglob("*")
            if path.is_file()
        }
