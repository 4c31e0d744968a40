"""A server with two nodes, and digits to learn from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.digits import write_digits

from runyard.azureml.core import Dataset, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from tests.frameworks.warm_server import warm_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Its cluster is "two"."""
    with warm_server(tmp_path_factory.mktemp("frameworks-home")):
        found = Workspace.create("frameworks", exist_ok=True)
        config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=2)
        ComputeTarget.create(found, "two", config).wait_for_completion()
        yield found


@pytest.fixture(scope="module")
def digits(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The four idx files; a folder of data beside the project may have those of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    beside = ROOT.parent / "shared" / "data" / "mnist"
    with pytest.MonkeyPatch.context() as patch:
        if beside.is_dir():
            patch.setenv("QUICKSTART_MNIST", str(beside))
        write_digits(folder)
    store = workspace.get_default_datastore()
    store.upload(str(folder), target_path="digits", show_progress=False)
    return Dataset.File.from_files((store, "digits"))
