"""The articles' runs of several processes, and those of their estimators: every code block as it stands.

What differs is listed here and nowhere else: the names that the articles leave undefined are supplied, in place of a
variable that a block never made stands the one that it made, and CNTK, of which no package is left, is mpi4py.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.runconfig import MpiConfiguration, TensorflowConfiguration
from azureml.train.dnn import TensorFlow

from runyard.environments.pythons import find_minor
from tests.articles.reader import BLOCKS, OLD_ADDRESS, SCRIPTS, run_blocks
from tests.engines.engines import TARGET, Engine, make_engine
from tests.frameworks.warm_server import warm_server, warm_settings

ROOT = Path(__file__).resolve().parents[2]
#: What A0 submits and what it made, likewise A3; A0 parses TF_CONFIG and then names the cluster as it never did.
ESTIMATOR = {"submit(tf_est)": "submit(estimator)"}
CNTK = {"submit(cntk_est)": "submit(estimator)", "cntk==2.5.1": "mpi4py"}
CLUSTER = ("ClusterSpec(cluster)", "ClusterSpec(tf_config_json.get('cluster'))")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("distributed-articles"),
    pytest.mark.skipif(
        find_minor("3.7") is None and os.environ.get("CI") != "true", reason="This host has no Python 3.7."
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Warm: Horovod is compiled once on a machine."""
    with warm_server(tmp_path_factory.mktemp("distributed-articles-home")):
        yield


@pytest.fixture
def folder(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder on this machine."""
    return _make_folder(tmp_path, monkeypatch)


def _make_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the workspace's config from Azure, and the sample scripts."""
    config = {"subscription_id": "1", "resource_group": "group", "workspace_name": "distributed"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(SCRIPTS / "tf_mnist.py", tmp_path)
    shutil.copy(ROOT / "examples" / "train" / "utils.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _project(folder: Path, name: str, script: str, text: str) -> str:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / script).write_text(text)
    shutil.copy(folder / "utils.py", folder / name)
    return f"./{name}"


def _log(run: Run, folder: Path, name: str) -> str:
    run.download_file(name, str(folder / "log.txt"))
    return (folder / "log.txt").read_text()


def test_tensorflow_article_trains_by_horovod_and_by_mirrored_workers(
    folder: Path, mnist_url: str, digits: Path
) -> None:
    names = _run_article(folder, mnist_url, digits)
    experiment = Experiment(names["ws"], "tf-distributed")
    run = experiment.submit(names["src"])
    run.wait_for_completion()
    metrics = run.get_metrics()
    assert (metrics["size"], metrics["sum"]) == ([2, 2], [3.0, 3.0])
    assert metrics["weights"][0] == metrics["weights"][1], "one network, although each began with its own"
    assert min(metrics["accuracy"]) > 0.85
    build = _log(run, folder, "azureml-logs/20_image_build_log.txt")
    assert "python: asked 3.6.2, got 3.7" in build
    assert "horovod is built from its source" in build
    assert "TensorFlow 2.2.0" in _log(run, folder, "user_logs/std_log_process_1.txt")

    names = run_blocks("a1", [18], folder, names, {})
    run = experiment.submit(names["src"])
    run.wait_for_completion()
    metrics = run.get_metrics()
    assert metrics["workers"] == [2, 2]
    assert metrics["loss"][0] == metrics["loss"][1]
    assert min(metrics["accuracy"]) > 0.85
    assert "outputs/keras-model/saved_model.pb" in run.get_file_names()
    assert "outputs/node_1/keras-model/saved_model.pb" in run.get_file_names()


def _run_article(folder: Path, mnist_url: str, digits: Path) -> dict[str, Any]:
    """The article of TensorFlow up to its configuration of Horovod."""
    shutil.copy(BLOCKS / "a1_16.yml", folder / "conda_dependencies.yml")
    script = (SCRIPTS / "tf_horovod_word2vec.py").read_text()
    names: dict[str, Any] = {
        "project_folder": _project(folder, "project", "tf_horovod_word2vec.py", script),
        "source_dir": _project(folder, "source", "train.py", (SCRIPTS / "mirrored.py").read_text()),
    }
    shutil.copytree(digits, folder / "source" / "digits")
    return run_blocks("a1", (1, 2, 3, 4, 5, 7, 17), folder, names, {OLD_ADDRESS: mnist_url})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("slurm", marks=pytest.mark.skipif(shutil.which("slurmctld") is None, reason="needs Slurm")),
        pytest.param("ray", marks=pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")),
    ],
)
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Another engine with two nodes, which find the environments that runs on this host have left."""
    folder = tmp_path_factory.mktemp("elsewhere")
    variables = {"RUNYARD_ALLOW_PRIVATE_URLS": "1", **warm_settings(folder / "home")}
    with make_engine(request.param, folder, folder / "home" / "cache", **variables) as engine:
        yield engine


def test_distributed_blocks_run_on_two_nodes_of_another_engine(
    elsewhere: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_url: str, digits: Path
) -> None:
    """The target's name is all that differs."""
    folder = _make_folder(tmp_path, monkeypatch)
    address = elsewhere.ray.site.head if elsewhere.ray is not None else "127.0.0.1"
    names = _run_article(folder, mnist_url.replace("127.0.0.1", address), digits)
    elsewhere.attach(names["ws"])
    experiment = Experiment(names["ws"], "elsewhere")
    _build_here(experiment, names["src"].run_config.environment, folder)
    for block, wanted in ((17, ("sum", [3.0, 3.0])), (18, ("workers", [2, 2]))):
        names = run_blocks("a1", [block], folder, names, {})
        names["src"].run_config.target = TARGET
        run = experiment.submit(names["src"])
        run.wait_for_completion()
        metrics = run.get_metrics()
        assert metrics[wanted[0]] == wanted[1]
        assert min(metrics["accuracy"]) > 0.85
    assert "outputs/node_1/keras-model/saved_model.pb" in run.get_file_names()


def test_estimators_run_on_two_nodes_of_another_engine(
    elsewhere: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    """Horovod, parameter servers and MPI of the estimators' articles; again the target is all that differs."""
    folder = _make_folder(tmp_path, monkeypatch)
    names: dict[str, Any] = {
        "MpiConfiguration": MpiConfiguration,
        "TensorflowConfiguration": TensorflowConfiguration,
        "project_folder": _project(folder, "project", "script.py", (SCRIPTS / "horovod_of_2019.py").read_text()),
    }
    names = run_blocks("a0", (1, 2, 3), folder, names, {})
    ds = names["ws"].get_default_datastore()
    for name, other in (("train-images-idx3-ubyte", "train-images"), ("train-labels-idx1-ubyte", "train-labels")):
        shutil.copy(digits / f"{name}.gz", folder / f"{other}.gz")
    ds.upload_files([str(folder / "train-images.gz"), str(folder / "train-labels.gz")])
    elsewhere.attach(names["ws"])
    names["compute_target"] = ComputeTarget(names["ws"], TARGET)
    names["script_params"] = {"--data-folder": ds.as_mount(), "--batch-size": 50, "--learning-rate": 0.01}

    names = run_blocks("a0", [12], folder, names, {})
    _build_here(names["exp"], names["estimator"].run_config.environment, folder)
    run = names["exp"].submit(names["estimator"])
    run.wait_for_completion()
    assert run.get_metrics()["after"] == pytest.approx([0.9, 0.9])

    _project(folder, "project", "script.py", (SCRIPTS / "parameter_server.py").read_text())
    reading = (BLOCKS / "a0_15.py.txt").read_text()
    (folder / "project" / "article.py").write_text(reading.replace(*CLUSTER))
    # Nodes of the test's cluster reach no index of packages.
    alone = TensorFlow("project", compute_target=names["compute_target"], entry_script="article.py")
    _build_here(names["exp"], alone.run_config.environment, folder)
    names = run_blocks("a0", [13], folder, names, ESTIMATOR)
    names["run"].wait_for_completion()
    # A worker reads the step before it adds to it, and so does the other one meanwhile.
    assert max(names["run"].get_metrics()["reached"]) >= 600 - 2

    _project(folder, "my-cntk-proj", "train.py", (SCRIPTS / "mpi_of_2018.py").read_text())
    names = run_blocks("a3", [3], folder, {**names, "experiment": names["exp"]}, CNTK)
    _build_here(names["exp"], names["estimator"].run_config.environment, folder)
    names = run_blocks("a3", [4], folder, names, CNTK)
    names["run"].wait_for_completion()
    assert names["run"].get_metrics()["sum"] == [3, 3]


def _build_here(experiment: Experiment, environment: Environment, folder: Path) -> None:
    _project(folder, "nothing", "nothing.py", "")
    config = ScriptRunConfig("nothing", "nothing.py", compute_target="local", environment=environment)
    experiment.submit(config).wait_for_completion()


def test_estimator_article_runs_from_top_to_end(folder: Path, mnist_url: str) -> None:
    script = (SCRIPTS / "horovod_of_2019.py").read_text()
    names: dict[str, Any] = {
        "TensorFlow": TensorFlow,
        "MpiConfiguration": MpiConfiguration,
        "TensorflowConfiguration": TensorflowConfiguration,
        "project_folder": _project(folder, "project", "script.py", script),
    }
    names = run_blocks("a0", range(1, 13), folder, names, {OLD_ADDRESS: mnist_url})
    run = names["run"]
    assert "TensorFlow 1.13.2" in _log(run, folder, "user_logs/std_log.txt")
    assert run.get_metrics()["accuracy"] > 0.8
    assert (names["model"].name, names["model"].version) == ("tf-dnn-mnist", 1)
    assert (folder / "model" / "mnist-tf.model.index").is_file()

    run = names["exp"].submit(names["estimator"])
    run.wait_for_completion()
    metrics = run.get_metrics()
    assert metrics["size"] == [2, 2]
    assert metrics["after"] == pytest.approx([0.9, 0.9]), "the first one's value, less the mean of both steps"

    _project(folder, "project", "script.py", (SCRIPTS / "parameter_server.py").read_text())
    reading = (BLOCKS / "a0_15.py.txt").read_text()
    assert CLUSTER[0] in reading
    (folder / "project" / "article.py").write_text(reading.replace(*CLUSTER))
    names = run_blocks("a0", [13], folder, names, ESTIMATOR)
    run = names["run"]
    run.wait_for_completion()
    # A worker reads the step before it adds to it, and so does the other one meanwhile.
    assert max(run.get_metrics()["reached"]) >= 600 - 2
    assert "user_logs/std_log_process_0_ps.txt" in run.get_file_names()

    alone = TensorFlow("project", compute_target=names["compute_target"], entry_script="article.py")
    run = names["exp"].submit(alone)
    run.wait_for_completion(raise_on_error=False)
    assert "ValueError: TF_CONFIG not found." in run.get_details()["error"]["error"]["message"]


def test_estimators_of_2018_run_from_top_to_end(folder: Path) -> None:
    ws = Workspace.from_config()
    config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=2)
    ds = ws.get_default_datastore()
    (folder / "data.txt").write_text("1 3 5")
    ds.upload_files([str(folder / "data.txt")])
    _project(folder, "my-sklearn-proj", "train.py", (SCRIPTS / "sklearn_of_2018.py").read_text())
    _project(folder, "my-cntk-proj", "train.py", (SCRIPTS / "mpi_of_2018.py").read_text())
    names: dict[str, Any] = {
        "ds": ds,
        "compute_target": ComputeTarget.create(ws, "two", config),
        "experiment": Experiment(ws, "train"),
    }
    names = run_blocks("a3", (1, 2), folder, names, {})
    names["run"].wait_for_completion()
    assert names["run"].get_metrics()["slope"] == pytest.approx(2, abs=0.1)
    names = run_blocks("a3", (3, 4), folder, names, CNTK)
    names["run"].wait_for_completion()
    assert names["run"].get_metrics()["sum"] == [3, 3]
