"""The articles' code blocks run as they stand: one after the other, in one namespace, as a reader pastes them.

What differs is listed here and nowhere else: the names that the articles leave undefined are supplied, the address of
the digits is this machine's, and the conda files' lines for Python, TensorFlow and Keras are today's.
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

from runyard.client.http import Server
from runyard.client.local_server import connect
from runyard.sdk.session import forget_server

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = Path(__file__).parent / "blocks"
MNIST_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]

#: What the articles' pinned lines become until the next release builds them as they are.
TODAY = {
    r"python=3\.6\.2": f"python={sys.version_info[0]}.{sys.version_info[1]}",
    r"tensorflow-gpu==2\.\d\.0": "tensorflow-cpu",
    r"keras<=2\.3\.1": "keras",
}
#: The articles' old address of the digits.
OLD_ADDRESS = "http://yann.lecun.com/exdb/mnist"

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("articles")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server in a home of its own, started by the SDK itself; stopped at the end."""
    home = tmp_path_factory.mktemp("articles-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(home))
        forget_server()
        yield None
        found: Server = connect()
        found.call("stop_server")
        found.close()
        forget_server()


def _stage(folder: Path, article: str) -> dict[str, Any]:
    """A reader's folder: the workspace's config from Azure, the conda file of the article, the sample scripts."""
    (folder / "config.json").write_text(
        json.dumps({"subscription_id": "1", "resource_group": "group", "workspace_name": "articles"})
    )
    conda = next(BLOCKS.glob(f"{article}_*.yml")).read_text()
    for pinned, today in TODAY.items():
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


def _follow(article: str, folder: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    return _run_blocks(article, folder, _stage(folder, article), mnist_url)


def _assert_learned(run: Any) -> None:
    assert run.get_status() == "Completed"
    accuracy = [values for name, values in run.get_metrics().items() if "acc" in name.lower()]
    assert accuracy, "the script logs an accuracy"
    last = accuracy[0][-1] if isinstance(accuracy[0], list) else accuracy[0]
    assert float(last) > 0.85


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_tensorflow_article_runs_up_to_its_model(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str
) -> None:
    names = _follow("a1", tmp_path, monkeypatch, mnist_url)
    run, model = names["run"], names["model"]
    _assert_learned(run)
    assert [path.rsplit("/", 1)[-1] for path in names["dataset"].to_path()] == MNIST_FILES
    assert names["dataset"].version == 1
    assert (model.name, model.version, model.model_framework) == ("tf-mnist", 1, "TensorFlow")
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
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _follow("a2", tmp_path, monkeypatch, mnist_url)
    run, model = names["run"], names["model"]
    _assert_learned(run)
    assert run.experiment.name == "Tutorial-Keras-Minst"
    assert (model.name, model.version) == ("keras-mnist", 1)
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
