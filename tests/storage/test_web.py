"""A web site as a datastore: its files by their paths, in the client and in a run, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.errors import AzureMLException, UserErrorException
from tests.emulators.site import serving_folder
from tests.own_server import own_server, stored_bytes

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("web-home"), RUNYARD_ALLOW_PRIVATE_URLS="1"):
        yield Workspace.create("web", exist_ok=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("site")
    (root / "data" / "deep").mkdir(parents=True)
    (root / "data" / "a b.txt").write_text("blank")
    (root / "data" / "deep" / "digits.gz").write_bytes(b"x" * 3_000_000)
    with serving_folder(root) as address:
        yield address


@pytest.fixture(scope="module")
def store(workspace: Workspace, site: str) -> Any:
    return Datastore.register(workspace, "site", site + "/data")


def test_files_are_read_by_their_paths(store: Any, tmp_path: Path) -> None:
    found = Dataset.File.from_files([(store, "a b.txt"), (store, "deep/digits.gz")])
    assert found.to_path() == ["/a b.txt", "/deep/digits.gz"]
    found.download(str(tmp_path))
    assert (tmp_path / "a b.txt").read_text() == "blank"
    assert (tmp_path / "deep" / "digits.gz").read_bytes() == b"x" * 3_000_000
    assert stored_bytes(store, "a b.txt") == b"blank"


def test_what_a_web_site_cannot_do_is_said(store: Any, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("x")
    for do in (
        lambda: store.upload_files([str(tmp_path / "new")], str(tmp_path), show_progress=False),
        lambda: Dataset.File.from_files((store, "**/*.gz")),
        lambda: store.download(str(tmp_path), show_progress=False),
    ):
        with pytest.raises(UserErrorException, match="is a web site"):
            do()
    with pytest.raises(UserErrorException, match="Nothing in datastore 'site' matches 'gone'"):
        Dataset.File.from_files((store, "gone"))


def test_address_that_cannot_be_is_refused(workspace: Workspace) -> None:
    with pytest.raises(AzureMLException, match="cannot be reached"):
        Datastore.register(workspace, "nowhere", "http://127.0.0.1:9/data")
    with pytest.raises(UserErrorException, match="is no address"):
        Datastore.register(workspace, "nowhere", "http://user:secret@127.0.0.1/data")
