"""The servers of cloud storage answer the libraries that datastores stand on."""

import sys
import tempfile
from pathlib import Path

import fsspec
import pytest

from tests.emulators import servers
from tests.emulators.servers import S3, STORAGE, Azurite, serving, start_azurite

pytestmark = STORAGE


def test_azurite_keeps_what_adlfs_writes(azurite: Azurite) -> None:
    container = azurite.make_container("smoke")
    storage = fsspec.filesystem("abfs", connection_string=azurite.connection_string)
    storage.pipe_file(f"{container}/folder/digits.csv", b"1,2,3\n")
    assert storage.find(container) == [f"{container}/folder/digits.csv"]
    assert storage.cat_file(f"{container}/folder/digits.csv") == b"1,2,3\n"


def test_azurite_refuses_a_wrong_key(azurite: Azurite) -> None:
    wrong = azurite.connection_string.replace("AccountKey=E", "AccountKey=F")
    storage = fsspec.filesystem("abfs", connection_string=wrong)
    with pytest.raises(Exception, match="AuthorizationFailure"):
        storage.ls("")


def test_s3_keeps_what_s3fs_writes(s3: S3) -> None:
    bucket = s3.make_bucket("smoke")
    storage = fsspec.filesystem("s3", key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint)
    storage.pipe_file(f"{bucket}/folder/digits.csv", b"1,2,3\n")
    assert storage.find(bucket) == [f"{bucket}/folder/digits.csv"]
    assert storage.cat_file(f"{bucket}/folder/digits.csv") == b"1,2,3\n"


def test_a_server_that_ends_early_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somebody's")
    code = "import os; print('no room for', sorted(os.environ)); raise SystemExit(3)"
    said = r"Storage ended with 3. Its output:\nno room for "
    with pytest.raises(pytest.fail.Exception, match=said) as failure, serving("Storage", [sys.executable, "-c", code]):
        pass
    assert "AWS_SECRET_ACCESS_KEY" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_npm_ci_fails_and_others_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr(servers, "CACHE", tmp_path / "azurite")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Azurite needs node and npm"), start_azurite():
        pass
