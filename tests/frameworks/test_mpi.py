"""mpi4py by the host's Open MPI, and by the one that an environment brings."""

import sys
from pathlib import Path

import pytest

from runyard.azureml.core import Workspace
from runyard.azureml.core.runconfig import MpiConfiguration
from tests.frameworks.trained import environment_of, said, train

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("frameworks")]

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    ("packages", "version"), [(("mpi4py", "numpy"), "Open MPI v4."), (("mpi4py", "numpy", "openmpi"), "Open MPI v5.")]
)
def test_ranks_of_two_nodes_reduce(
    workspace: Workspace, tmp_path: Path, packages: tuple[str, ...], version: str
) -> None:
    environment = environment_of("mpi", *packages, python=PYTHON)
    config = MpiConfiguration(process_count_per_node=2, node_count=2)
    run = train(workspace, tmp_path, "reduce.py", environment, config)
    assert run.get_metrics()["sum"] == [10.0] * 4
    for rank in range(4):
        assert f"of 4 local {rank % 2} {version}" in said(run, tmp_path, rank)
