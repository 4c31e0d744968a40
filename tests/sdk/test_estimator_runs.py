"""Estimators as real runs: their data, their clusters, and the frameworks that they install."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.runconfig import TensorflowConfiguration
from runyard.azureml.exceptions import ExperimentExecutionException
from runyard.azureml.train.dnn import TensorFlow
from runyard.azureml.train.estimator import Estimator
from runyard.environments.pythons import find_minor
from runyard.sdk import notices
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    with own_server(tmp_path_factory.mktemp("estimator-runs-home")):
        yield Experiment(Workspace.create("estimator-runs", exist_ok=True), "trial")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "t.py").write_text("import sys\nprint(sys.argv[1:])\n")
    return folder


def test_estimator_reads_its_data_and_takes_other_parameters_at_the_submission(
    experiment: Experiment, source: Path, tmp_path: Path
) -> None:
    store = experiment.workspace.get_default_datastore()
    (tmp_path / "words.txt").write_text("some words")
    store.upload_files([str(tmp_path / "words.txt")], target_path="words")
    (source / "t.py").write_text(
        "import json, os, sys\n"
        "folder = os.environ['AZUREML_DATAREFERENCE_more']\n"
        "text = open(os.path.join(sys.argv[2], 'words.txt')).read()\n"
        "print(json.dumps([sys.argv[1], text, os.listdir(folder), sys.argv[3:], os.environ['GREETING']]))\n"
    )
    estimator = Estimator(
        source,
        compute_target="local",
        entry_script="t.py",
        script_params={"--data": store.path("words").as_mount(), "--rate": 0.1, "--fast": ""},
        inputs=[store.path("words", data_reference_name="more").as_download()],
        environment_variables={"GREETING": "hello"},
        user_managed=True,
    )
    run = experiment.submit(estimator, script_params={"--rate": 0.5})
    assert printed(run, tmp_path) == [
        "--data", "some words", ["words.txt"], ["--rate", "0.5", "--fast"], "hello",
    ]  # fmt: skip
    assert estimator.run_config.arguments[2:] == ["--rate", 0.1, "--fast"], "the estimator stays as it was"
    with pytest.raises(ExperimentExecutionException, match="script_params beside an estimator"):
        experiment.submit(ScriptRunConfig(source, "t.py"), script_params={"--rate": 0.5})
    with pytest.raises(ExperimentExecutionException, match="takes a ScriptRunConfig or an estimator"):
        experiment.submit("t.py")


def test_cluster_is_made_for_an_estimator_that_has_only_a_size(experiment: Experiment, source: Path) -> None:
    estimator = Estimator(
        source, vm_size="Standard_D2_V2", vm_priority="lowpriority", entry_script="t.py", user_managed=True
    )
    for _ in range(2):
        run = experiment.submit(estimator)
        assert run._known().target == "standard-d2-v2-lowpriority"
        run.cancel()
    cluster = experiment.workspace.compute_targets["standard-d2-v2-lowpriority"]
    assert (cluster.vm_size.upper(), cluster.scale_settings.maximum_node_count) == ("STANDARD_D2_V2", 1)


def test_cluster_that_is_there_is_used_as_it_is_and_what_differs_is_said(
    experiment: Experiment, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was used without a word, and the run took the smaller nodes for those that were asked for."""
    wanted = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=1)
    ComputeTarget.create(experiment.workspace, "shared", wanted)
    capsys.readouterr()
    config = ScriptRunConfig(source, "t.py")
    config.run_config.target = "amlcompute"
    asked = config.run_config.amlcompute
    asked.name, asked.vm_size = "shared", "standard_d2_v2"
    experiment.submit(config).cancel()
    assert "shared" not in capsys.readouterr().err
    asked.vm_size, asked.vm_priority = "STANDARD_NC6", "lowpriority"
    run = experiment.submit(config)
    run.cancel()
    assert run._known().target == "shared"
    assert capsys.readouterr().err == (
        "Warning: Cluster 'shared' exists with vm_size STANDARD_D2_V2 and vm_priority dedicated and is used as it is, "
        "not with STANDARD_NC6 and lowpriority; another name makes another cluster.\n"
    )


CLUSTER = """
import json, os
config = json.loads(os.environ["TF_CONFIG"])
print(json.dumps([config["task"], {role: len(hosts) for role, hosts in config["cluster"].items()}]))
"""


def test_parameter_servers_and_workers_of_an_estimator_are_told_of_each_other(
    experiment: Experiment, source: Path, tmp_path: Path
) -> None:
    (source / "t.py").write_text(CLUSTER)
    wanted = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=2)
    cluster = ComputeTarget.create(experiment.workspace, "two", wanted)
    distributed_training = TensorflowConfiguration()
    distributed_training.worker_count = 2
    tf_est = TensorFlow(
        source,
        compute_target=cluster,
        entry_script="t.py",
        node_count=2,
        process_count_per_node=1,
        distributed_training=distributed_training,
        user_managed=True,
    )
    run = experiment.submit(tf_est)
    run.wait_for_completion()
    assert "user_logs/std_log_process_0_ps.txt" in run.get_file_names(), "it ends with the workers"
    for index in (0, 1):
        run.download_file(f"user_logs/std_log_process_{index}.txt", str(tmp_path / "log.txt"))
        said = json.loads((tmp_path / "log.txt").read_text().splitlines()[-1])
        assert said == [{"type": "worker", "index": index}, {"ps": 1, "worker": 2}]


SESSION = """
import argparse, os
import tensorflow as tf
from azureml.core import Run
parser = argparse.ArgumentParser()
parser.add_argument("--data-folder")
parser.add_argument("--steps", type=int)
asked = parser.parse_args()
slope = float(open(os.path.join(asked.data_folder, "mnist", "slope.txt")).read())
x, w = tf.placeholder(tf.float32, [None, 1]), tf.Variable([[0.0]])
loss = tf.reduce_mean(tf.square(tf.matmul(x, w) - slope * x))
step = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(asked.steps):
        session.run(step, {x: [[1.0], [2.0]]})
    Run.get_context().log("slope", float(session.run(w)[0][0]))
    Run.get_context().tag("tensorflow", tf.__version__)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_minor("3.7") is None, reason="This host has no Python 3.7.")
def test_tensorflow_estimator_of_the_article_trains_with_the_release_of_its_time(
    experiment: Experiment, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "tf_mnist.py").write_text(SESSION)
    (tmp_path / "slope.txt").write_text("3")
    ds = experiment.workspace.get_default_datastore()
    ds.upload_files([str(tmp_path / "slope.txt")], target_path="mnist", overwrite=True)
    wanted = AmlCompute.provisioning_configuration(vm_size="STANDARD_NC6", max_nodes=4)
    est = TensorFlow(
        source_directory=source,
        entry_script="tf_mnist.py",
        script_params={"--data-folder": ds.as_mount(), "--steps": 100},
        compute_target=ComputeTarget.create(experiment.workspace, "gpucluster", wanted),
        use_gpu=True,
    )
    assert "framework_version is not given: TensorFlow 1.13 is taken, as in v1." in capsys.readouterr().err
    run = experiment.submit(est)
    run.wait_for_completion(show_output=True)
    assert run.get_tags()["tensorflow"] == "1.13.2"
    assert abs(run.get_metrics()["slope"] - 3) < 1e-3


LEARN = """
import sklearn.linear_model
from azureml.core import Run
model = sklearn.linear_model.LinearRegression().fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
Run.get_context().log("slope", float(model.coef_[0]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_generic_estimator_of_the_article_trains_with_scikit_learn(experiment: Experiment, source: Path) -> None:
    (source / "train.py").write_text(LEARN)
    sk_est = Estimator(
        source_directory=source, compute_target="local", entry_script="train.py", conda_packages=["scikit-learn"]
    )
    run = experiment.submit(sk_est)
    assert run.get_details().status in ("Starting", "Preparing", "Queued", "Running")
    run.wait_for_completion()
    assert run.get_status() == "Completed"
    assert abs(run.get_metrics()["slope"] - 2) < 1e-9


def printed(run: Run, folder: Path) -> Any:
    run.wait_for_completion()
    run.download_file("user_logs/std_log.txt", str(folder / "log.txt"))
    return json.loads((folder / "log.txt").read_text().splitlines()[-1])
