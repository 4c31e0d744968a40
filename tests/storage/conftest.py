"""The artifact store of a new bucket, on each service."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runyard.storage.artifacts import RemoteStore
from runyard.storage.azure_blob import AzureObjects
from runyard.storage.base import ArtifactStore
from runyard.storage.gcs import GoogleObjects
from runyard.storage.local import LocalStore
from runyard.storage.objects import ObjectService
from runyard.storage.s3 import S3Objects
from tests.emulators.servers import S3, Azurite, start_gcs

Open = Callable[[ObjectService, Path], RemoteStore]


def services(request: pytest.FixtureRequest, kind: str) -> Callable[..., ObjectService]:
    """Makes the services of one new bucket; each may be reached by another address."""
    name = "artifacts-" + os.urandom(4).hex()
    if kind == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.make_bucket(name)
        known = {"key": s3.key, "secret": s3.secret}
        return lambda endpoint=s3.endpoint: S3Objects(f"s3://{name}/pre", name, "pre/", endpoint, known)
    if kind == "gcs":
        address, google = request.getfixturevalue("gcs")
        return lambda endpoint=address: GoogleObjects(
            "gs://artifacts", "artifacts", name + "/", endpoint, {"key": google}
        )
    azurite: Azurite = request.getfixturevalue("azurite")
    azurite.make_container(name)
    known = {"account": azurite.account_name, "key": azurite.account_key}
    return lambda endpoint=azurite.endpoint: AzureObjects(f"az://{name}/pre", name, "pre/", endpoint, known)


@pytest.fixture(scope="session")
def gcs() -> Iterator[tuple[str, str]]:
    """Where an emulator of Google's service listens, and a key that it takes as any other."""
    with start_gcs("artifacts") as address, _tokens() as tokens:
        made = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key = {
            "type": "service_account", "project_id": "p", "private_key_id": "k", "private_key": made.decode(),
            "client_email": "a@b.c", "client_id": "1", "token_uri": tokens,
        }  # fmt: skip
        yield address, json.dumps(key)


@contextmanager
def _tokens() -> Iterator[str]:
    """Gives whoever asks a token, as the place that a key names does; the emulator takes any."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"access_token": "any", "expires_in": 3600, "token_type": "Bearer"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


@pytest.fixture(params=["s3", "azure", "gcs"])
def make_service(request: pytest.FixtureRequest) -> Callable[..., ObjectService]:
    return services(request, request.param)


@pytest.fixture
def service(make_service: Callable[..., ObjectService]) -> ObjectService:
    return make_service()


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, make_service: Callable[..., ObjectService]) -> str:
    """Where the services of ``make_service`` lie."""
    service = make_service()
    if isinstance(service, GoogleObjects):
        address: str = request.getfixturevalue("gcs")[0]
        return address
    kind = "s3" if isinstance(service, S3Objects) else "azurite"
    found: str = request.getfixturevalue(kind).endpoint
    return found


@pytest.fixture
def open_store() -> Iterator[Open]:
    opened = []

    def make(service: ObjectService, folder: Path) -> RemoteStore:
        store = RemoteStore("bucket://here", service, folder)
        store.start()
        opened.append(store)
        return store

    yield make
    for one in opened:
        one.close()


@pytest.fixture(params=["local", "s3", "azure", "gcs"])
def store(request: pytest.FixtureRequest, open_store: Open, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(services(request, request.param)(), tmp_path / "catalog")


@pytest.fixture
def remote(service: ObjectService, open_store: Open, tmp_path: Path) -> RemoteStore:
    return open_store(service, tmp_path / "catalog")
