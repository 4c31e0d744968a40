"""Names in a bucket that are no pattern although they look like one, and keys that can be no path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.client.local_server import connect
from runyard.sdk.session import forget_server
from tests.emulators.servers import S3, STORAGE

pytestmark = STORAGE


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(tmp_path_factory.mktemp("names-home")))
        forget_server()
        yield Workspace.create("names", exist_ok=True)
        found = connect()
        found.call("stop_server")
        found.close()
        forget_server()


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
