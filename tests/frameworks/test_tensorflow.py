"""TensorFlow's own ways to train on several nodes: mirrored workers of today, parameter servers of 2019."""

import sys
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Workspace
from runyard.azureml.core.runconfig import TensorflowConfiguration
from runyard.environments.pythons import find_minor
from tests.frameworks.trained import environment_of, said, train

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("frameworks")]

ROOT = Path(__file__).resolve().parents[2]
TODAY = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_mirrored_workers_learn_the_same(workspace: Workspace, digits: Dataset, tmp_path: Path) -> None:
    environment = environment_of("tensorflow", "tensorflow-cpu", python=TODAY)
    config = TensorflowConfiguration(worker_count=2, parameter_server_count=0)
    run = train(workspace, tmp_path, "multi_worker.py", environment, config, digits.as_mount())
    metrics = run.get_metrics()
    assert metrics["replicas"] == [2, 2]
    assert metrics["loss"][0] == metrics["loss"][1]
    assert metrics["accuracy"][0] == metrics["accuracy"][1] > 0.85


@pytest.mark.skipif(find_minor("3.7") is None, reason="This host has no Python 3.7.")
def test_workers_of_2019_share_their_steps_by_a_parameter_server(
    workspace: Workspace, digits: Dataset, tmp_path: Path
) -> None:
    environment = environment_of("tensorflow-1", "tensorflow==1.13.2", python="3.7")
    config = TensorflowConfiguration(worker_count=2, parameter_server_count=1)
    page = (ROOT / "docs" / "howto" / "distributed.md").read_text()
    (chief,) = (block.split("```")[0] for block in page.split("```python\n") if 'cluster["chief"]' in block)
    data = digits.as_mount()
    run = train(workspace, tmp_path, "parameter_server.py", environment, config, data, chief=chief)
    metrics = run.get_metrics()
    assert min(metrics["steps"]) > 0
    # A worker reads the step before it adds to it, and so does the other one meanwhile.
    assert max(metrics["reached"]) >= 600 - 2, "the steps of both count"
    assert max(metrics["accuracy"]) > 0.85
    for worker in (0, 1):
        log = said(run, tmp_path, worker)
        assert "TensorFlow 1.13.2 variables on /job:ps/task:0" in log
        assert f"tf.estimator is {('chief 0', 'worker 0')[worker]} of 2 workers" in log
    assert "tf.estimator is ps 0 of 2 workers" in said(run, tmp_path, "0_ps")
