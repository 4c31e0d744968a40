"""The artifact store of a new bucket, on each service."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard.storage.artifacts import RemoteStore
from runyard.storage.azure_blob import AzureObjects
from runyard.storage.base import ArtifactStore
from runyard.storage.local import LocalStore
from runyard.storage.objects import ObjectService
from runyard.storage.s3 import S3Objects
from tests.emulators.servers import S3, Azurite

Open = Callable[[ObjectService, Path], RemoteStore]


def services(request: pytest.FixtureRequest, kind: str) -> Callable[..., ObjectService]:
    """Makes the services of one new bucket; each may be reached by another address."""
    name = "artifacts-" + os.urandom(4).hex()
    if kind == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.make_bucket(name)
        known = {"key": s3.key, "secret": s3.secret}
        return lambda endpoint=s3.endpoint: S3Objects(f"s3://{name}/pre", name, "pre/", endpoint, known)
    azurite: Azurite = request.getfixturevalue("azurite")
    azurite.make_container(name)
    known = {"account": azurite.account_name, "key": azurite.account_key}
    return lambda endpoint=azurite.endpoint: AzureObjects(f"az://{name}/pre", name, "pre/", endpoint, known)


@pytest.fixture(params=["s3", "azure"])
def make_service(request: pytest.FixtureRequest) -> Callable[..., ObjectService]:
    return services(request, request.param)


@pytest.fixture
def service(make_service: Callable[..., ObjectService]) -> ObjectService:
    return make_service()


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, make_service: Callable[..., ObjectService]) -> str:
    """Where the services of ``make_service`` lie."""
    kind = "s3" if isinstance(make_service(), S3Objects) else "azurite"
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


@pytest.fixture(params=["local", "s3", "azure"])
def store(request: pytest.FixtureRequest, open_store: Open, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return open_store(services(request, request.param)(), tmp_path / "catalog")


@pytest.fixture
def remote(service: ObjectService, open_store: Open, tmp_path: Path) -> RemoteStore:
    return open_store(service, tmp_path / "catalog")
