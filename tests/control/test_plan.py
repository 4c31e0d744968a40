"""The plan of an attempt, held in a golden file: a change of what nodes are told is seen in the diff."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runyard.control.plan import GRACE_VARIABLE, make_plan
from runyard.protocol.datasets import Dataset, DatasetSpec, Source
from runyard.protocol.datastores import Datastore
from runyard.protocol.environments import EnvironmentSpec, Lock, Note
from runyard.protocol.experiments import Experiment
from runyard.protocol.outputs import OutputMode, OutputSpec
from runyard.protocol.plan import LaunchPlan
from runyard.protocol.runs import InputMode, InputSpec, RunSpec
from runyard.protocol.wire import loads, to_wire
from runyard.protocol.workspaces import Workspace

GOLDEN = Path(__file__).parent / "launch_plan.json"
SPEC = RunSpec(
    run_id="tf-mnist_1600000000_0a1b2c3d",
    experiment="tf-mnist",
    script="tf_mnist.py",
    arguments=("--data-folder", "$mnist", "--batch-size", "64", "--name", "žluť 数字"),
    target="gpu-cluster",
    environment=EnvironmentSpec(name="tf", variables={"A": "of the environment", "B": "of the environment"}),
    snapshot="sha256:" + "1" * 64,
    inputs=(
        InputSpec("mnist", InputMode.MOUNT, "dataset-1"),
        InputSpec("reference", InputMode.DOWNLOAD, datastore="workspaceblobstore", path="some/folder", overwrite=True),
    ),
    outputs=(
        OutputSpec("model", "workspaceblobstore", dataset=DatasetSpec((), name="models")),
        OutputSpec("plots", "bucket", OutputMode.UPLOAD, "plots/{output-name}", "/scratch/plots", globs=("*.png",)),
    ),
    environment_variables={"B": "of the run"},
    max_run_duration_s=3600,
    tags={"not": "part of the plan"},
    properties={"azureml.git.commit": "abc", "mine": "not part of the plan"},
)
DATASETS = {
    "dataset-1": Dataset(
        "dataset-1", "ws", "file", (Source(url="https://example.org/a.gz"), Source(file="/data/*.csv")), "ann", 1
    )
}
DATASTORES = {
    "workspaceblobstore": Datastore("workspaceblobstore", "ws", "folder", True, "ann", 1),
    "bucket": Datastore("bucket", "ws", "s3", False, "ann", 1, "data/mnist"),
    "share": Datastore("share", "ws", "folder", False, "ann", 1, "/srv/share"),
}
WORKSPACE = Workspace("workspace-1", "ws", "1b2", "my rg", "local", "", "", "ann", 1)
EXPERIMENT = Experiment("experiment-1", "tf-mnist", "ws", "ann", 1)
LOCK = Lock("2" * 64, python="3.11", requirements=("six==1.17.0",), notes=(Note("keras", "keras<=2.3.1", "", "gone"),))


def _plan(spec: RunSpec = SPEC) -> LaunchPlan:
    return make_plan(spec, WORKSPACE, EXPERIMENT, 2, LOCK, "0.1.0-abc", DATASETS, DATASTORES, True)


def test_plan_is_the_golden_one() -> None:
    assert to_wire(_plan()) == json.loads(GOLDEN.read_text())


def test_golden_plan_is_read_by_the_code_of_today() -> None:
    assert loads(LaunchPlan, GOLDEN.read_text()) == _plan()


def test_variables_of_the_run_go_before_those_of_the_environment() -> None:
    assert _plan().variables == {"A": "of the environment", "B": "of the run"}


def test_plan_names_no_path_of_this_machine_and_no_secret() -> None:
    text = GOLDEN.read_text()
    for word in ("/home", "/tmp", "token", "127.0.0.1", "secret"):
        assert word not in text


def test_plan_says_where_the_files_of_a_datastore_are() -> None:
    inputs = tuple(InputSpec(name, InputMode.MOUNT, datastore=name, path="a") for name in DATASTORES)
    spec = replace(SPEC, inputs=inputs)
    plan = make_plan(spec, WORKSPACE, EXPERIMENT, 1, LOCK, "kit", DATASETS, DATASTORES, True)
    found = {one.name: (one.sources[0].is_remote, one.sources[0].root) for one in plan.inputs}
    assert found == {"workspaceblobstore": (False, None), "bucket": (True, None), "share": (False, "/srv/share")}


@pytest.mark.parametrize(
    ("asked", "seconds"), [("120", 120), ("0", 1), ("99999999999", 3600), ("", 10), ("long", 10), ("-5", 10), ("²", 10)]
)
def test_grace_is_what_the_user_asks_for_within_reason(asked: str, seconds: float) -> None:
    assert _plan(replace(SPEC, environment_variables={GRACE_VARIABLE: asked})).grace_s == seconds
