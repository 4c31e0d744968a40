"""What every test gets: a home of its own, no variables of a surrounding run, and no network but this machine's.

And what a test may ask for in any folder: a server of cloud storage.
"""

import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.client.local_server import connect, is_running
from tests.aftermath import aftermath
from tests.emulators.servers import S3, Azurite, start_azurite, start_s3

#: Where a test may connect to, apart from Unix sockets; the last are networks of the tests' own Ray and SSH machines.
LOOPBACK = ("127.", "::1", "localhost", "10.77.", "10.78.")

#: Variables that would lead a test to somebody's server or account, or make it believe that it is inside a run.
FOREIGN_PREFIXES = ("RUNYARD_", "AZUREML_", "AZ_BATCH", "AZURE_", "AWS_")

_connect = socket.socket.connect


class NetworkRefused(ConnectionError):
    """A test tried to leave this machine."""


def _connect_on_this_machine(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
        raise NetworkRefused(f"A test may connect to this machine only, not to {address[0]}.")
    _connect(self, address)


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the whole session one scratch home; a test that needs a fresh one sets RUNYARD_HOME itself."""
    home = tmp_path_factory.mktemp("runyard-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
            patch.delenv(name)
        patch.setenv("RUNYARD_HOME", str(home))
        # A test that wants a container engine names it.
        patch.setenv("RUNYARD_ENGINE", "none")
        patch.setattr(socket.socket, "connect", _connect_on_this_machine)
        yield home
        if is_running(home):
            # Some test has called it without a home of its own.
            found = connect()
            found.call("stop_server")
            found.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside a failure stands what its server knows: most of what goes wrong once in many times is not seen again."""
    report = yield
    found = aftermath(Path(os.environ.get("RUNYARD_HOME", "/nonexistent"))) if report.failed else ""
    if found:
        report.sections.append(("what its server knows", found))
    return report


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with start_azurite() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with start_s3() as server:
        yield server
