"""A file share as a datastore, where it differs: v1's kind of it, a download that is taken up again, what is refused.

What all services do stands in ``test_journeys``.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.azureml.data.azure_storage_datastore import AzureFileDatastore
from runyard.errors import ConflictError, NotFoundError, UserErrorException
from tests.emulators.azure_files import AzureFiles, start_azure_files
from tests.emulators.fault_proxy import DOWN, FaultProxy, start_fault_proxy
from tests.emulators.servers import STORAGE
from tests.own_server import own_server, run_here

pytestmark = STORAGE

BIG = os.urandom(9 << 20)

LOOK = """
import hashlib, os, sys
print("mounted", os.path.ismount(sys.argv[1]))
for parent, _, names in sorted(os.walk(sys.argv[1])):
    for name in sorted(names):
        path = os.path.join(parent, name)
        print(os.path.relpath(path, sys.argv[1]), hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("shares-home")):
        yield Workspace.create("shares", exist_ok=True)


@pytest.fixture(scope="module")
def service() -> Iterator[AzureFiles]:
    with start_azure_files() as found:
        yield found


@pytest.fixture(scope="module")
def proxy(service: AzureFiles) -> Iterator[FaultProxy]:
    with start_fault_proxy(service.endpoint) as found:
        yield found


@pytest.fixture(scope="module")
def store(workspace: Workspace, service: AzureFiles, proxy: FaultProxy) -> Any:
    return _register(workspace, "share", "data/below", proxy.url, service.account_key, create_if_not_exists=True)


def _register(workspace: Workspace, name: str, share: str, endpoint: str, key: str, **more: Any) -> Any:
    return Datastore.register_azure_file_share(
        workspace, name, share, "files", account_key=key, endpoint=endpoint, **more
    )


@pytest.fixture(scope="module")
def files(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "big.bin").write_bytes(BIG)
    store.upload(str(folder), target_path="in", show_progress=False)
    return folder


def test_share_is_v1s_kind_of_datastore(workspace: Workspace, store: Any) -> None:
    for one in (store, Datastore.get(workspace, "share"), workspace.datastores["share"]):
        assert isinstance(one, AzureFileDatastore)
        assert (one.datastore_type, one.account_name, one.container_name) == ("AzureFile", "files", "data")


@pytest.mark.parametrize("mode", ["as_mount", "as_download"])
def test_large_file_is_bound_to_a_run(workspace: Workspace, store: Any, files: Path, tmp_path: Path, mode: str) -> None:
    dataset = Dataset.File.from_files((store, "in"))
    log = run_here(workspace, tmp_path, LOOK, getattr(dataset, mode)())
    assert f"big.bin {hashlib.sha256(BIG).hexdigest()}" in log
    assert ("mounted True" in log) == (mode == "as_mount")


def test_download_that_breaks_off_goes_on_where_it_stopped(
    store: Any, files: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.cut_after(5 << 20, DOWN, times=3)
    try:
        assert store.download(str(tmp_path), prefix="in/big", show_progress=False) == 1
    finally:
        proxy.heal()
    assert (tmp_path / "in" / "big.bin").read_bytes() == BIG


def test_wrong_key_and_wrong_share_are_refused_in_one_sentence(workspace: Workspace, service: AzureFiles) -> None:
    with pytest.raises(UserErrorException, match="does not let us in") as caught:
        _register(workspace, "wrong", "data", service.endpoint, "Y2FuYXJ5Y2FuYXJ5")
    assert "Y2FuYXJ5" not in str(caught.value)
    with pytest.raises(NotFoundError, match="has no share 'nowhere'"):
        _register(workspace, "wrong", "nowhere", service.endpoint, service.account_key)
    with pytest.raises(UserErrorException, match="account_key or a sas_token"):
        Datastore.register_azure_file_share(workspace, "wrong", "data", "files", endpoint=service.endpoint)
    with pytest.raises(ConflictError, match="came with the workspace"):
        _register(workspace, "workspacefilestore", "data", service.endpoint, service.account_key, overwrite=True)
    assert "wrong" not in workspace.datastores
