"""Data in a bucket, a container and a file share: registered, uploaded, listed, mounted and downloaded by runs."""

import contextlib
import gzip
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.errors import ConflictError, NotFoundError, ServiceException, UserErrorException
from runyard.server.storage_work import EACH_MAX
from tests.emulators.azure_files import AzureFiles, start_azure_files
from tests.emulators.servers import S3, STORAGE, Azurite
from tests.own_server import own_server, run_here, stored_bytes

pytestmark = STORAGE

SCRIPT = """
import os, sys
for parent, _, names in sorted(os.walk(sys.argv[1])):
    for name in sorted(names):
        path = os.path.join(parent, name)
        print(os.path.relpath(path, sys.argv[1]), open(path, "rb").read())
keys = ("canary", "Eby8vdM02xNOcqFlqUwJP", "dGhlIGtleS")
print([name for name, text in os.environ.items() if any(key in text for key in keys)])
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("storage-home")):
        yield Workspace.create("storage", exist_ok=True)


@pytest.fixture(scope="module")
def shares() -> Iterator[AzureFiles]:
    with start_azure_files() as found:
        yield found


@pytest.fixture(scope="module", params=["s3", "azure", "share"])
def store(workspace: Workspace, request: pytest.FixtureRequest) -> Any:
    """A datastore on a real service, or on a stand-in of file shares, of which there is none."""
    if request.param == "share":
        shares: AzureFiles = request.getfixturevalue("shares")
        return Datastore.register_azure_file_share(
            workspace, "files", "data/below", "files", account_key=shares.account_key, endpoint=shares.endpoint,
            create_if_not_exists=True,
        )  # fmt: skip
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.make_bucket("data")
        return Datastore.register(
            workspace, "bucket", "s3://data/below", endpoint=s3.endpoint, key=s3.key, secret=s3.secret
        )
    azurite: Azurite = request.getfixturevalue("azurite")
    azurite.make_container("data")
    return Datastore.register_azure_blob_container(
        workspace, "container", "data/below", azurite.account_name, account_key=azurite.account_key,
        endpoint=azurite.endpoint,
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was uploaded."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "deep").mkdir()
    (folder / "a b.txt").write_bytes(b"blank")
    (folder / "deep" / "ünï#%.txt").write_bytes(b"names")
    (folder / "empty").write_bytes(b"")
    with gzip.open(folder / "deep" / "big.gz", "wb", 1) as file:
        file.write(os.urandom(9 << 20))
    store.upload(str(folder), target_path="in", show_progress=False)
    return folder


def test_uploaded_files_are_listed_and_come_back_as_they_were(store: Any, files: Path, tmp_path: Path) -> None:
    assert [one.path for one in store._list("")] == ["in/a b.txt", "in/deep/big.gz", "in/deep/ünï#%.txt", "in/empty"]
    assert store.download(str(tmp_path), prefix="in", show_progress=False) == 4
    for name in ("a b.txt", "deep/big.gz", "deep/ünï#%.txt", "empty"):
        assert (tmp_path / "in" / name).read_bytes() == (files / name).read_bytes()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("in/a b.txt", ["in/a b.txt"]),
        ("in/deep", ["in/deep/big.gz", "in/deep/ünï#%.txt"]),
        ("in/*.txt", ["in/a b.txt"]),
        ("in/**/*.txt", ["in/a b.txt", "in/deep/ünï#%.txt"]),
        ("in/dee", []),
        ("nowhere", []),
    ],
)
def test_paths_and_patterns_mean_what_they_mean_in_a_folder(store: Any, files: Path, path: str, found: Any) -> None:
    assert [one.path for one in store._list(path)] == found


def test_file_that_is_there_stays_unless_it_is_overwritten(store: Any, files: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("first")
    store.upload_files([str(tmp_path / "twice.txt")], target_path="twice", show_progress=False)
    (tmp_path / "twice.txt").write_text("second")
    store.upload_files([str(tmp_path / "twice.txt")], target_path="twice", show_progress=False)
    assert stored_bytes(store, "twice/twice.txt") == b"first"
    store.upload_files([str(tmp_path / "twice.txt")], target_path="twice", overwrite=True, show_progress=False)
    assert stored_bytes(store, "twice/twice.txt") == b"second"


@pytest.mark.parametrize("mode", ["as_mount", "as_download"])
def test_dataset_on_it_is_bound_to_a_run(
    workspace: Workspace, store: Any, files: Path, tmp_path: Path, mode: str
) -> None:
    dataset = Dataset.File.from_files((store, "in/**/*.txt"))
    log = run_here(workspace, tmp_path, SCRIPT, getattr(dataset, mode)())
    assert "a b.txt b'blank'" in log
    assert "deep/ünï#%.txt b'names'" in log
    assert log.splitlines()[-1] == "[]", "no credential is in a job's environment"


def test_path_of_it_is_bound_to_a_run(workspace: Workspace, store: Any, files: Path, tmp_path: Path) -> None:
    assert "a b.txt b'blank'" in run_here(workspace, tmp_path, SCRIPT, store.path("in").as_mount())


def test_credentials_are_in_no_answer_and_not_in_the_database(workspace: Workspace, store: Any) -> None:
    (record,) = (one for one in workspace._call("list_datastores") if one.name == store.name)
    database = sqlite3.connect(Path(os.environ["RUNYARD_HOME"]) / "runyard.db")
    (secret,) = database.execute("SELECT secret FROM datastores WHERE name = ?", (store.name,)).fetchone()
    database.close()
    for key in ("canary", "Eby8vdM02xNOcqFlqUwJP", "dGhlIGtleS"):
        assert key not in repr(record) + repr(store._record) + secret
    assert secret


def test_missing_file_is_said_before_the_script_starts(workspace: Workspace, store: Any, tmp_path: Path) -> None:
    dataset = Dataset.File.from_files((store, "nowhere/*.csv"), validate=False)
    with pytest.raises(Exception, match="nothing matches"):
        run_here(workspace, tmp_path, SCRIPT, dataset.as_mount())
    with pytest.raises(NotFoundError, match="no such file"):
        stored_bytes(store, "nowhere.csv")


def test_wrong_bucket_and_wrong_key_are_refused_in_one_sentence(workspace: Workspace, s3: S3, azurite: Azurite) -> None:
    with pytest.raises(NotFoundError, match="no bucket or container 'nowhere'"):
        Datastore.register(workspace, "b", "s3://nowhere", endpoint=s3.endpoint, key=s3.key, secret=s3.secret)
    with pytest.raises((UserErrorException, ServiceException)) as caught:
        Datastore.register_azure_blob_container(
            workspace, "c", "data", azurite.account_name, account_key="Y2FuYXJ5", endpoint=azurite.endpoint
        )
    assert "Y2FuYXJ5" not in str(caught.value)
    assert "b" not in workspace.datastores
    with pytest.raises(ServiceException, match="does not answer"):
        Datastore.register(workspace, "d", "s3://data", endpoint="http://127.0.0.1:9", key="k", secret="canary")


def test_default_can_be_moved_and_what_came_with_the_workspace_stays(workspace: Workspace, store: Any) -> None:
    store.set_as_default()
    assert workspace.get_default_datastore().name == store.name
    with pytest.raises(ConflictError, match="is the default"):
        store.unregister()
    workspace.set_default_datastore("workspaceblobstore")
    with pytest.raises(ConflictError, match="came with the workspace"):
        Datastore.get(workspace, "workspaceblobstore").unregister()


def test_folder_of_this_machine_is_a_datastore_of_its_owner(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "x.txt").write_text("shared")
    share = Datastore.register(workspace, "share", str(tmp_path / "share"))
    assert [one.path for one in share._list("")] == ["x.txt"]
    assert "x.txt b'shared'" in run_here(
        workspace, tmp_path, SCRIPT, Dataset.File.from_files((share, "*.txt")).as_mount()
    )
    home = os.environ["RUNYARD_HOME"]
    for wrong in (home, os.path.join(home, "logs"), "/", str(tmp_path / "nowhere")):
        with pytest.raises(UserErrorException, match=r"home folder|is no folder"):
            Datastore.register(workspace, "wrong", wrong)
    with pytest.raises(ConflictError, match="exists already"):
        Datastore.register(workspace, "share", str(tmp_path / "share"))
    share.unregister()
    assert "share" not in workspace.datastores
    assert (tmp_path / "share" / "x.txt").exists()


def test_objects_that_stand_for_folders_and_odd_keys_are_left_out(
    workspace: Workspace, s3: S3, azurite: Azurite, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    s3.make_bucket("odd")
    azurite.make_container("odd")
    systems = {
        "odd-s3": fsspec.filesystem("s3", key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint),
        "odd-azure": fsspec.filesystem("abfs", connection_string=azurite.connection_string),
    }
    systems["odd-s3"].call_s3("put_object", Bucket="odd", Key="pics/", Body=b"")
    systems["odd-azure"].pipe_file("odd/pics", b"")
    for system in systems.values():
        for key in ("odd/pics/1.png", "odd/d//e"):
            system.pipe_file(key, b"content")
    systems["odd-s3"].pipe_file("odd/br[1].txt", b"content")
    Datastore.register(workspace, "odd-s3", "s3://odd", endpoint=s3.endpoint, key=s3.key, secret=s3.secret)
    Datastore.register_azure_blob_container(
        workspace, "odd-azure", "odd", azurite.account_name, account_key=azurite.account_key, endpoint=azurite.endpoint
    )
    for name in systems:
        store = Datastore.get(workspace, name)
        brackets = ["br[1].txt"] if name == "odd-s3" else []
        assert [one.path for one in store._list("")] == [*brackets, "pics/1.png"]
        assert [one.path for one in store._list("br[1].txt")] == brackets
        assert store.download(str(tmp_path / name), show_progress=False) == 1 + len(brackets)
    with pytest.raises(NotFoundError, match="is a folder"):
        stored_bytes(Datastore.get(workspace, "odd-s3"), "pics")


def test_service_that_says_nothing_costs_nobody_else(workspace: Workspace, store: Any, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as asked:
        silent.settimeout(30)
        hanging = _register_hanging(workspace, store, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for _ in range(3 * EACH_MAX):
            threading.Thread(target=_try, args=(hanging,), daemon=True).start()
        for _ in range(EACH_MAX):
            asked.enter_context(silent.accept()[0])
        began = time.monotonic()
        assert hanging.name in workspace.datastores
        assert store._list("in/a b.txt")
        assert time.monotonic() - began < 20, "others are answered while one service hangs"
    hanging.unregister()


def _register_hanging(workspace: Workspace, store: Any, address: str) -> Any:
    """A datastore of the kind of ``store``."""
    name = "hanging-" + store.name
    if store.datastore_type == "AmazonS3":
        return Datastore.register(
            workspace, name, "s3://data", endpoint=address, key="key", secret="secret", skip_validation=True
        )
    is_share = store.datastore_type == "AzureFile"
    register = Datastore.register_azure_file_share if is_share else Datastore.register_azure_blob_container
    return register(workspace, name, "data", "files", account_key="a2V5", endpoint=address, skip_validation=True)


def _try(store: Any) -> None:
    with contextlib.suppress(Exception):
        store._list("")
