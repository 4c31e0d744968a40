"""Azure's own library against the stand-in for Azure Files: what is read and written, what is refused, what breaks."""

import datetime
import io
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from runyard.errors import ConflictError, NotFoundError, RunyardError, ServiceException, UserErrorException
from runyard.protocol.datastores import Datastore, DatastoreKind, DatastoreSpec
from runyard.storage import azure_files
from runyard.storage.azure_files import AzureFilesDatastore
from runyard.storage.services import check_spec
from tests.emulators.azure_files import AzureFiles, start_azure_files


@pytest.fixture
def service() -> Iterator[AzureFiles]:
    with start_azure_files() as found:
        found.shares["data"] = {}
        yield found


@pytest.fixture
def store(service: AzureFiles) -> AzureFilesDatastore:
    return _open(service, "data/below")


def _open(service: AzureFiles, root: str, **credentials: str) -> AzureFilesDatastore:
    record = Datastore("share", "ws", DatastoreKind.AZURE_FILE, False, "ann", 1, root, "files", service.endpoint)
    return AzureFilesDatastore(record, credentials or {"account_key": service.account_key})


def _sas(service: AzureFiles, permission: str, hours: int = 1) -> str:
    from azure.storage.fileshare import generate_share_sas

    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return str(generate_share_sas("files", "data", service.account_key, permission, expiry))


def _write(store: AzureFilesDatastore, folder: Path, name: str, data: bytes, overwrite: bool = False) -> Any:
    (folder / "source").write_bytes(data)
    with (folder / "source").open("rb") as source:
        return store.write(name, source, overwrite)


def _read(store: AzureFilesDatastore, name: str, offset: int = 0) -> bytes:
    file, _ = store.open(name)
    with file:
        file.seek(offset)
        return file.read()


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (9 << 20) + 5])
def test_what_is_written_comes_back_from_any_offset(store: AzureFilesDatastore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    written = _write(store, tmp_path, "a/b c/ünï#%.bin.", data)
    assert (written.path, written.size_bytes) == ("a/b c/ünï#%.bin.", size)
    assert _read(store, written.path) == data
    assert _read(store, written.path, size // 2) == data[size // 2 :]
    assert store.list("") == [written], "a listing tells the same size, time and tag"


def test_pages_folders_and_patterns_are_listed_as_elsewhere(service: AzureFiles, store: AzureFilesDatastore) -> None:
    names = [f"in/{number:02}.txt" for number in range(10)] + [
        "in/deep/er/x.txt",
        "in/deep/y.csv",
        "br[1].txt",
        "v[2]/x.txt",
    ]
    for name in names:
        service.put("data", "below/" + name, b"x")
    service.put("data", "outside.txt", b"not ours")
    service.put("data", "belowground/x.txt", b"not ours either")
    service.put("data", "below/in/.upload-half", b"what somebody writes now")
    assert [one.path for one in store.list("")] == sorted(names)
    assert [one.path for one in store.list("in/*.txt")] == names[:10]
    assert [one.path for one in store.list("**/*.txt")] == sorted(name for name in names if name.endswith(".txt"))
    assert [one.path for one in store.list("in/deep")] == ["in/deep/er/x.txt", "in/deep/y.csv"]
    assert [one.path for one in store.list("in/deep/y.csv")] == ["in/deep/y.csv"]
    assert [one.path for one in store.list("br[1].txt")] == ["br[1].txt"]
    assert [one.path for one in store.list("v[2]")] == ["v[2]/x.txt"]
    assert store.list("in/dee") == store.list("nowhere/x") == []
    assert service.asked.count("list_folder") > 8, "a page holds three names"


def test_nothing_outside_the_shares_folder_is_reached(service: AzureFiles, store: AzureFilesDatastore) -> None:
    service.put("data", "outside.txt", b"not ours")
    for path in ("../outside.txt", "in/../../outside.txt", "..", "/outside.txt"):
        with pytest.raises((UserErrorException, NotFoundError)):
            store.open(path)
        with pytest.raises(UserErrorException):
            store.write(path, io.BytesIO(), True)
    with pytest.raises(UserErrorException):
        store.list("../*.txt")
    assert store.list("outside.txt") == []


def test_file_that_is_there_stays_unless_it_is_overwritten(
    service: AzureFiles, store: AzureFilesDatastore, tmp_path: Path
) -> None:
    first = _write(store, tmp_path, "x.txt", b"first")
    with pytest.raises(ConflictError, match="overwrite=True"):
        _write(store, tmp_path, "x.txt", b"second")
    assert _read(store, "x.txt") == b"first"
    second = _write(store, tmp_path, "x.txt", b"second", overwrite=True)
    assert _read(store, "x.txt") == b"second"
    assert first.tag != second.tag
    assert list(service.shares["data"]) == ["below", "below/x.txt"], "nothing that was set aside is left"


def test_second_of_two_writers_is_told_and_leaves_nothing_behind(
    service: AzureFiles, store: AzureFilesDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = AzureFilesDatastore._rename

    def after_another(*arguments: Any) -> None:
        service.put("data", "below/x.txt", b"another's")
        rename(*arguments)

    monkeypatch.setattr(AzureFilesDatastore, "_rename", after_another)
    with pytest.raises(ConflictError, match="already"):
        _write(store, tmp_path, "x.txt", b"mine")
    assert _read(store, "x.txt") == b"another's"
    assert list(service.shares["data"]) == ["below", "below/x.txt"]


def test_upload_that_breaks_off_leaves_what_was_there(
    service: AzureFiles, store: AzureFilesDatastore, tmp_path: Path
) -> None:
    _write(store, tmp_path, "x.txt", b"old")

    class Broken(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 4 << 20:
                raise OSError("the disk is gone")
            return super().read(size)

    (tmp_path / "big").write_bytes(os.urandom(9 << 20))
    source: BinaryIO = Broken(tmp_path / "big")  # type: ignore[assignment]
    with source, pytest.raises(ServiceException, match="the disk is gone"):
        store.write("x.txt", source, True)
    assert _read(store, "x.txt") == b"old"
    assert list(service.shares["data"]) == ["below", "below/x.txt"]


def test_file_that_changes_while_it_is_read_is_no_mixture(
    service: AzureFiles, store: AzureFilesDatastore, tmp_path: Path
) -> None:
    _write(store, tmp_path, "x.bin", b"a" * (9 << 20))
    file, _ = store.open("x.bin")
    assert file.read(10) == b"a" * 10
    service.put("data", "below/x.bin", b"b" * (9 << 20))
    with file, pytest.raises(ServiceException, match="changed while it was read"):
        file.read()


def test_names_that_the_service_has_not_and_folders_in_the_way_are_said(
    service: AzureFiles, store: AzureFilesDatastore, tmp_path: Path
) -> None:
    with pytest.raises(UserErrorException, match=r"takes no '\?'"):
        _write(store, tmp_path, "what?.txt", b"")
    _write(store, tmp_path, "a/b", b"")
    for path in ("a/b/c", "a/b/c/d"):
        with pytest.raises(UserErrorException, match="is a file and not a folder"):
            _write(store, tmp_path, path, b"")
    with pytest.raises(UserErrorException, match="is a folder"):
        _write(store, tmp_path, "a", b"")
    with pytest.raises(NotFoundError, match="is a folder"):
        store.open("a")
    with pytest.raises(NotFoundError, match="no such file"):
        store.open("nowhere/x")
    assert list(service.shares["data"]) == ["below", "below/a", "below/a/b"]


def test_share_and_key_are_looked_at(service: AzureFiles) -> None:
    _open(service, "data").check()
    _open(service, "data/folder/not/there/yet").check()
    with pytest.raises(NotFoundError, match="has no share 'nowhere'"):
        _open(service, "nowhere").check()
    with pytest.raises(NotFoundError):
        _open(service, "nowhere").list("")
    with pytest.raises(UserErrorException, match="does not let us in") as caught:
        _open(service, "data", account_key="Y2FuYXJ5Y2FuYXJ5").check()
    assert "Y2FuYXJ5" not in str(caught.value)
    _open(service, "nowhere").make_root()
    _open(service, "nowhere").make_root()
    _open(service, "nowhere").check()
    assert "get_share" not in service.asked, "that is shown to no signature of a share"


@pytest.mark.parametrize("mark", ["", "?"])
def test_shared_access_signature_does_all_of_it(service: AzureFiles, tmp_path: Path, mark: str) -> None:
    store = _open(service, "data/x", sas_token=mark + _sas(service, "rcwdl"))
    store.check()
    _write(store, tmp_path, "a/b.txt", b"signed")
    _write(store, tmp_path, "a/b.txt", b"signed again", overwrite=True)
    assert _read(store, "a/b.txt") == b"signed again"
    assert [one.path for one in store.list("")] == ["a/b.txt"]


def test_no_sentence_holds_a_signature(service: AzureFiles, tmp_path: Path) -> None:
    for token in (_sas(service, "rl"), _sas(service, "rcwdl", hours=-1), _sas(service, "rcwdl") + "x"):
        signature = re.search(r"sig=([^&]+)", token)
        assert signature
        with pytest.raises(RunyardError, match="does not let us in") as caught:
            _write(_open(service, "data", sas_token=token), tmp_path, "x", b"")
        assert signature[1][:-1] not in str(caught.value)


def test_message_of_the_library_with_an_address_in_it_loses_the_signature(service: AzureFiles) -> None:
    store = _open(service, "data", sas_token="?sv=2020&sig=abc%2Bdef%3D")
    with pytest.raises(ServiceException) as caught, store.telling():
        raise ValueError("no answer from http://h/data?sv=2020&sig=abc%2Bdef%3D or sig=abc+def=, sig=abc%2Bdef%3D&x")
    assert "abc" not in str(caught.value)


def test_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_files, "READ_S", 0.2)
    monkeypatch.setattr(azure_files, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = AzureFiles(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServiceException, match="does not answer as it should"):
            _open(service, "data").check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"account": "Not An Account"}, "account_name"),
        ({"credentials": {}}, "account_key or a sas_token"),
        ({"credentials": {"account_key": "k", "sas_token": "s"}}, "one of the two"),
        ({"credentials": {"client_secret": "s"}}, "takes account_key, sas_token"),
        ({"endpoint": "http://127.0.0.1:1"}, "private address"),
    ],
)
def test_spec_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    known: dict[str, Any] = {"account": "files", "credentials": {"account_key": "k"}, **changes}
    with pytest.raises(UserErrorException, match=said):
        check_spec(DatastoreSpec("share", DatastoreKind.AZURE_FILE, "data", **known), allow_private=False)


def test_range_is_as_long_as_the_service_allows(service: AzureFiles, store: AzureFilesDatastore) -> None:
    service.put("data", "below/x.bin", bytes(9 << 20))
    assert len(_read(store, "x.bin")) == 9 << 20
    assert service.asked.count("get_file") == 3
