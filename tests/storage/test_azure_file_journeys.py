"""A file share as a datastore: registered, uploaded, mounted and downloaded by runs, resumed, and one that hangs."""

import contextlib
import hashlib
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.data.azure_storage_datastore import AzureFileDatastore
from runyard.client.local_server import connect
from runyard.errors import ConflictError, NotFoundError, UserErrorException
from runyard.sdk.session import forget_server
from tests.emulators.azure_files import AzureFiles, start_azure_files
from tests.emulators.fault_proxy import DOWN, FaultProxy, start_fault_proxy
from tests.emulators.servers import STORAGE

pytestmark = STORAGE

BIG = os.urandom(9 << 20)

LOOK = """
import hashlib, os, sys
print("mounted", os.path.ismount(sys.argv[1]))
for parent, _, names in sorted(os.walk(sys.argv[1])):
    for name in sorted(names):
        path = os.path.join(parent, name)
        print(os.path.relpath(path, sys.argv[1]), hashlib.sha256(open(path, "rb").read()).hexdigest())
print([name for name, text in os.environ.items() if "dGhlIGtleS" in text])
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(tmp_path_factory.mktemp("shares-home")))
        forget_server()
        yield Workspace.create("shares", exist_ok=True)
        found = connect()
        found.call("stop_server")
        found.close()
        forget_server()


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
    (folder / "deep").mkdir()
    (folder / "a b.txt").write_bytes(b"blank")
    (folder / "deep" / "ünï#%.txt").write_bytes(b"names")
    (folder / "deep" / "big.bin").write_bytes(BIG)
    (folder / "empty").write_bytes(b"")
    store.upload(str(folder), target_path="in", show_progress=False)
    return folder


def _run(workspace: Workspace, tmp_path: Path, argument: Any) -> str:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "look.py").write_text(LOOK)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    run = Experiment(workspace, "shares").submit(
        ScriptRunConfig(str(tmp_path / "source"), "look.py", arguments=[argument], environment=environment)
    )
    run.wait_for_completion()
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log.txt"))
    return (tmp_path / "log.txt").read_text()


def test_share_is_v1s_kind_of_datastore(workspace: Workspace, service: AzureFiles, store: Any) -> None:
    for one in (store, Datastore.get(workspace, "share"), workspace.datastores["share"]):
        assert isinstance(one, AzureFileDatastore)
        assert (one.datastore_type, one.account_name, one.container_name) == ("AzureFile", "files", "data")
    database = sqlite3.connect(Path(os.environ["RUNYARD_HOME"]) / "runyard.db")
    (secret,) = database.execute("SELECT secret FROM datastores WHERE name = 'share'").fetchone()
    database.close()
    assert secret
    assert service.account_key not in secret + repr(store._record)


def test_uploaded_files_are_listed_and_come_back_as_they_were(store: Any, files: Path, tmp_path: Path) -> None:
    names = ["in/a b.txt", "in/deep/big.bin", "in/deep/ünï#%.txt", "in/empty"]
    assert [one.path for one in store._list("in")] == names
    assert [one.path for one in store._list("in/**/*.txt")] == [names[0], names[2]]
    assert store.download(str(tmp_path), prefix="in", show_progress=False) == 4
    for name in names:
        assert (tmp_path / name).read_bytes() == (files / name[3:]).read_bytes()


@pytest.mark.parametrize("mode", ["as_mount", "as_download"])
def test_dataset_on_it_is_bound_to_a_run(
    workspace: Workspace, store: Any, files: Path, tmp_path: Path, mode: str
) -> None:
    dataset = Dataset.File.from_files((store, "in"))
    log = _run(workspace, tmp_path, getattr(dataset, mode)())
    assert f"deep/big.bin {hashlib.sha256(BIG).hexdigest()}" in log
    assert "deep/ünï#%.txt " in log
    assert ("mounted True" in log) == (mode == "as_mount")
    assert log.splitlines()[-1] == "[]", "no credential is in a job's environment"


def test_download_that_breaks_off_goes_on_where_it_stopped(
    store: Any, files: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.cut_after(5 << 20, DOWN, times=3)
    try:
        assert store.download(str(tmp_path), prefix="in/deep/big", show_progress=False) == 1
    finally:
        proxy.heal()
    assert (tmp_path / "in" / "deep" / "big.bin").read_bytes() == BIG


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


def test_server_that_says_nothing_costs_nobody_else(workspace: Workspace, store: Any, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hanging = _register(workspace, "hanging", "data", address, "a2V5", skip_validation=True)
        for _ in range(8):
            threading.Thread(target=_try, args=(hanging,), daemon=True).start()
        time.sleep(1)
        assert [one.path for one in store._list("in/a b.txt")] == ["in/a b.txt"]
    hanging.unregister()


def _try(store: Any) -> None:
    with contextlib.suppress(Exception):
        store._list("")
