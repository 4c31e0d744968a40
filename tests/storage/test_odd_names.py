"""Names in a bucket that are no pattern although they look like one, and keys that can be no path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from tests.emulators.servers import S3, STORAGE
from tests.own_server import own_server, submit_here

pytestmark = STORAGE


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("names-home")):
        yield Workspace.create("names", exist_ok=True)


@pytest.fixture(scope="module", params=["bucket", "folder"])
def store(workspace: Workspace, s3: S3, request: pytest.FixtureRequest) -> Any:
    if request.param == "folder":
        return workspace.get_default_datastore()
    s3.make_bucket("names")
    return Datastore.register(workspace, "names", "s3://names", endpoint=s3.endpoint, key=s3.key, secret=s3.secret)


def test_folder_with_brackets_in_its_name_is_that_folder(store: Any, tmp_path: Path) -> None:
    (tmp_path / "v[2]" / "deep").mkdir(parents=True)
    for name in ("x.csv", "deep/y.csv"):
        (tmp_path / "v[2]" / name).write_text(name)
    store.upload(str(tmp_path / "v[2]"), "in/v[2]", show_progress=False)
    dataset = Dataset.File.from_files((store, "in/v[2]"))
    assert sorted(dataset.to_path()) == ["/deep/y.csv", "/x.csv"]
    assert sorted(Path(path).read_text() for path in dataset.download()) == ["deep/y.csv", "x.csv"]
    assert Dataset.File.from_files((store, "in/v[2]/x.csv")).to_path() == ["/x.csv"]
    assert Dataset.File.from_files((store, "in/v[[]2]/*.csv")).to_path() == ["/v[2]/x.csv"]


def test_keys_that_can_be_no_path_are_said_wherever_a_bucket_is_listed(
    workspace: Workspace, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec = pytest.importorskip("fsspec")
    s3.make_bucket("keys")
    system = fsspec.filesystem("s3", key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint)
    for key in ("in/fine", "in//twice", "in/../up", *(f"in/a//{number}" for number in range(10))):
        system.pipe_file("keys/" + key, b"content")
    store = Datastore.register(workspace, "keys", "s3://keys", endpoint=s3.endpoint, key=s3.key, secret=s3.secret)
    dataset = Dataset.File.from_files((store, "in"))
    capsys.readouterr()
    assert store.download(str(tmp_path / "copies"), show_progress=False) == 1
    assert "Warning: 12 files of datastore 'keys' are left out: The path 'in/" in capsys.readouterr().err
    run = submit_here(workspace, tmp_path, "", dataset.as_mount())
    run.wait_for_completion()
    (warning,) = run.get_details()["warnings"]
    assert warning["message"].startswith("Input 'input': 12 files of datastore 'keys' are left out: The path 'in/")
    assert warning["message"].endswith(" ... (2 more)")
