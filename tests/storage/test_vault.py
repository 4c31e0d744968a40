"""Credentials at rest: unreadable without the home's key, and never given back."""

import stat
from pathlib import Path

import pytest

from runyard.errors import ServiceException, UserErrorException
from runyard.protocol.datastores import DatastoreKind, DatastoreSpec
from runyard.storage.services import check_spec, options
from runyard.storage.vault import Vault

SECRETS = {"key": "canary-key", "secret": "canary-secret"}


def test_what_was_locked_is_unlocked_by_the_same_home(tmp_path: Path) -> None:
    text = Vault(tmp_path / "vault.key").lock(SECRETS)
    assert "canary" not in text
    assert Vault(tmp_path / "vault.key").unlock(text) == SECRETS
    assert stat.S_IMODE((tmp_path / "vault.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["vault.key"]


def test_nothing_needs_no_key(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault.key")
    assert (vault.lock({}), vault.unlock("")) == ("", {})
    assert not (tmp_path / "vault.key").exists()


def test_another_home_s_key_is_refused_with_what_to_do(tmp_path: Path) -> None:
    text = Vault(tmp_path / "one.key").lock(SECRETS)
    Vault(tmp_path / "two.key").lock(SECRETS)
    with pytest.raises(ServiceException, match="register the datastore again"):
        Vault(tmp_path / "two.key").unlock(text)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DatastoreSpec("d", "floppy", "x"), "is no kind of datastore"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", credentials={"account_key": "y"}), "takes key, secret, token, not"),
        (DatastoreSpec("d", DatastoreKind.AZURE_BLOB, "x"), "needs account_name"),
        (DatastoreSpec("d", DatastoreKind.GCS, "x", credentials={"token": "/etc/passwd"}), "text of a service account"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="ftp://host"), "is no address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://[bad"), "is no address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://h:99999"), "is no address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://1.1.1.1/;BlobEndpoint=http://h"), "is no address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://no.such.host.invalid"), "cannot be found"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", credentials={"key": "only"}), "key and secret together"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", credentials={"token": "only"}), "goes with key and secret"),
        (DatastoreSpec("d", DatastoreKind.AZURE_BLOB, "x", "127.0.0.1:1/x#"), "small letters and digits"),
        (
            DatastoreSpec("d", DatastoreKind.AZURE_BLOB, "x", "acc", credentials={"account_key": "k;BlobEndpoint=x"}),
            "has a blank or a ';'",
        ),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://user:pass@host"), "is no address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://127.0.0.1:9"), "lies at the private address"),
        (DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://169.254.169.254"), "lies at the private address"),
    ],
)
def test_spec_that_cannot_be_is_refused_in_one_sentence(spec: DatastoreSpec, message: str) -> None:
    with pytest.raises(UserErrorException, match=message):
        check_spec(spec, allow_private=False)


def test_private_endpoint_is_fine_where_the_server_allows_it() -> None:
    check_spec(DatastoreSpec("d", DatastoreKind.S3, "x", endpoint="http://127.0.0.1:9"), allow_private=True)


def test_nobody_s_own_profile_is_read() -> None:
    assert options(DatastoreKind.S3, "", "", {})["anon"] is True
    assert options(DatastoreKind.GCS, "", "", {})["token"] == "anon"
    assert options(DatastoreKind.AZURE_BLOB, "acc", "", {})["anon"] is True
