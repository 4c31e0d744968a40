"""The articles' code blocks run as they stand: one after the other, in one namespace, as a reader pastes them.

What differs is listed here and nowhere else: the names that the articles leave undefined are supplied, the address of
the digits is this machine's. The conda files are taken as they are printed, and once more with the lines for Python,
TensorFlow and Keras of today.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.pythons import find_minor
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
    # Those of several processes: test_distributed_articles.py.
    numbers = [one for one in numbers if one <= 15]
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
