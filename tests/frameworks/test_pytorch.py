"""PyTorch's DistributedDataParallel in an environment that the user has made by pip."""

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Environment, Workspace
from runyard.azureml.core.runconfig import PyTorchConfiguration
from tests.frameworks.trained import train
from tests.frameworks.warm_server import CACHES

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("frameworks")]

PACKAGES = ("torch==2.13.0", "numpy")


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """The Python of an environment with PyTorch, made once on this machine: it takes minutes."""
    folder = CACHES / "-".join(["python", *map(str, sys.version_info[:3]), *PACKAGES])
    CACHES.mkdir(parents=True, exist_ok=True)
    with open(CACHES / "torch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            # With its byte code, without which the first import takes ten times as long.
            variables = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES]
            subprocess.run(command, env=variables, check=True)
            (folder / "ready").touch()
    return folder / "bin" / "python"


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
