"""What a home keeps of its store's credentials, when a later start has others."""

import json
import os
from pathlib import Path

from runyard.storage.chosen import FILE, open_store
from runyard.storage.vault import Vault
from tests.emulators.servers import S3, STORAGE

pytestmark = STORAGE

#: Nothing listens there.
AWAY = "http://127.0.0.1:9"


def kept(home: Path) -> dict[str, str]:
    return Vault(home / "vault.key").unlock(json.loads((home / FILE).read_text())["sealed"])


def start(home: Path, asked: str, **variables: str) -> None:
    open_store(home, asked, variables, Vault(home / "vault.key")).close()


def test_key_of_today_goes_without_the_token_of_yesterday(s3: S3, tmp_path: Path) -> None:
    bucket = "kept-" + os.urandom(4).hex()
    s3.make_bucket(bucket)
    key = {"AWS_ACCESS_KEY_ID": s3.key, "AWS_SECRET_ACCESS_KEY": s3.secret}
    start(tmp_path, f"s3://{bucket}", **key, AWS_SESSION_TOKEN="ends-soon", RUNYARD_STORE_ENDPOINT=s3.endpoint)
    assert kept(tmp_path)["token"] == "ends-soon"
    start(tmp_path, "", **key)
    assert kept(tmp_path) == {"key": s3.key, "secret": s3.secret, "endpoint": s3.endpoint}
    start(tmp_path, "")
    assert kept(tmp_path) == {"key": s3.key, "secret": s3.secret, "endpoint": s3.endpoint}


def test_credentials_that_no_store_has_taken_replace_none(s3: S3, tmp_path: Path) -> None:
    bucket = "kept-" + os.urandom(4).hex()
    s3.make_bucket(bucket)
    key = {"AWS_ACCESS_KEY_ID": s3.key, "AWS_SECRET_ACCESS_KEY": s3.secret}
    start(tmp_path, f"s3://{bucket}", **key, RUNYARD_STORE_ENDPOINT=s3.endpoint)
    before = kept(tmp_path)
    start(tmp_path, "", AWS_ACCESS_KEY_ID="other", AWS_SECRET_ACCESS_KEY="x", RUNYARD_STORE_ENDPOINT=AWAY)
    assert kept(tmp_path) == before
