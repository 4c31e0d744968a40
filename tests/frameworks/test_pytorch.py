"""PyTorch's DistributedDataParallel in an environment that the user has made by pip."""

from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Environment, Workspace
from runyard.azureml.core.runconfig import PyTorchConfiguration
from tests.frameworks.torch_python import torch_python
from tests.frameworks.trained import train

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("frameworks")]


@pytest.fixture(scope="session", name="torch_python")
def made_torch_python() -> Path:
    return torch_python()


def test_processes_of_two_nodes_learn_the_same(
    workspace: Workspace, digits: Dataset, tmp_path: Path, torch_python: Path
) -> None:
    environment = Environment("pytorch")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = str(torch_python)
    config = PyTorchConfiguration("Gloo", process_count=2, node_count=2)
    run = train(workspace, tmp_path, "data_parallel.py", environment, config, digits.as_mount())
    metrics = run.get_metrics()
    assert metrics["size"] == [2, 2]
    assert metrics["weights"][0] == metrics["weights"][1], "one network, although each began with its own"
    assert metrics["accuracy"][0] == metrics["accuracy"][1] > 0.85
