"""The articles' code blocks run as they stand: one after the other, in one namespace, as a reader pastes them.

What differs is listed here and nowhere else: the names that the articles leave undefined are supplied, the address of
the digits is this machine's. The conda files are taken as they are printed, and once more with the lines for Python,
TensorFlow and Keras of today.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.pythons import find_minor
from tests.own_server import own_server

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = Path(__file__).parent / "blocks"
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
#: The conda file of the section on Horovod, as printed.
HOROVOD = """
channels:
- conda-forge
dependencies:
- python=3.6.2
- pip:
  - azureml-defaults
  - tensorflow-gpu==2.2.0
  - horovod==0.19.5
"""
#: The articles' old address of the digits.
OLD_ADDRESS = "http://yann.lecun.com/exdb/mnist"

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
    conda = next(BLOCKS.glob(f"{article}_*.yml")).read_text()
    for pinned, today in {} if is_printed else TODAY.items():
        conda = re.sub(pinned, today, conda)
    (folder / "conda_dependencies.yml").write_text(conda)
    shutil.copytree(ROOT / "examples" / "train", folder / "scripts")
    return {"script_folder": str(folder / "scripts")}


def _run_blocks(article: str, folder: Path, names: dict[str, Any], mnist_url: str) -> dict[str, Any]:
    """The names that are left after all blocks, each run with the names of those before it."""
    for block in sorted(BLOCKS.glob(f"{article}_*.py.txt")):
        script = folder / f"{block.name.partition('.')[0]}.py"
        script.write_text(block.read_text().replace(OLD_ADDRESS, mnist_url))
        names = runpy.run_path(str(script), init_globals=names)
    return names


def _follow(
    article: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, is_printed: bool
) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    return _run_blocks(article, folder, _stage(folder, article, is_printed), mnist_url)


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


def test_tensorflow_article_runs_up_to_its_model(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, is_printed: bool
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


def test_horovod_file_builds_as_printed_and_its_ranks_reduce(server: None, tmp_path: Path) -> None:
    from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace

    _need_old_python()
    (tmp_path / "conda.yml").write_text(HOROVOD)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text(
        "import horovod.tensorflow as hvd\nimport tensorflow as tf\n\nhvd.init()\n"
        "print('TensorFlow', tf.__version__, 'sum', float(hvd.allreduce(tf.constant(2.0), op=hvd.Sum)), flush=True)\n"
    )
    environment = Environment.from_conda_specification("horovod", str(tmp_path / "conda.yml"))
    source = ScriptRunConfig(str(tmp_path / "source"), "train.py", environment=environment)
    run = Experiment(Workspace.create("articles", exist_ok=True), "horovod").submit(source)
    run.wait_for_completion()
    assert "TensorFlow 2.2.0 sum 2.0" in _script_log(run, tmp_path)
    run.download_file("azureml-logs/20_image_build_log.txt", str(tmp_path / "build.txt"))
    build = (tmp_path / "build.txt").read_text()
    assert "python: asked 3.6.2, got 3.7" in build
    assert "horovod is built from its source" in build
