"""Real servers of cloud storage on this machine: Azurite, which speaks Azure Blob, and moto, which speaks S3."""

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

#: For a test that uses them: ``pytestmark = STORAGE``. One worker has the servers, and the first test may wait for npm.
STORAGE = [pytest.mark.e2e, pytest.mark.xdist_group("storage"), pytest.mark.timeout(300)]

#: What npm installs, pinned with all that it needs.
PINS = ("package.json", "package-lock.json")
HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".venv" / "azurite"

#: Longest wait for a server's first answer, and for npm, seconds.
LIMIT_S = 60.0
INSTALL_LIMIT_S = 240.0

#: Variables that would lead a server to somebody's account.
FOREIGN_PREFIXES = ("AWS_", "AZURE_", "AZURITE_", "MOTO_")

#: Both servers take port 0, and write where they listen.
_LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Azurite:
    """An Azure Blob server with the one account that every Azurite has; its key is public."""

    endpoint: str
    account_name: str = "devstoreaccount1"
    account_key: str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    @property
    def connection_string(self) -> str:
        """All of it in one text, as adlfs and Azure's own clients take it."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account_name};AccountKey={self.account_key};"
            f"BlobEndpoint={self.endpoint};"
        )

    def make_container(self, name: str) -> str:
        """Make a container, and return its name."""
        from azure.storage.blob import ContainerClient

        with ContainerClient.from_connection_string(self.connection_string, name) as container:
            container.create_container()
        return name


@dataclass(frozen=True)
class S3:
    """An S3 server that takes any key."""

    endpoint: str
    key: str = "testing"
    secret: str = "testing-secret"

    def make_bucket(self, name: str) -> str:
        """Make a bucket, and return its name."""
        status = _ask(self.endpoint, "PUT", "/" + name)
        assert status == 200, f"the bucket {name} could not be made: {status}"
        return name


@contextmanager
def start_azurite() -> Iterator[Azurite]:
    """Azurite's blob service, installed if it is not there yet."""
    program = _find_azurite() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    command = ["node", str(program), "--blobHost", "127.0.0.1", "--blobPort", "0", "--location", "."]
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with serving("Azurite", command + options) as address:
        azurite = Azurite(address)
        yield Azurite(f"{address}/{azurite.account_name}")


@contextmanager
def start_s3() -> Iterator[S3]:
    """The S3 of a moto server."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    with serving("moto", command) as address:
        yield S3(address)


@contextmanager
def start_gcs(bucket: str) -> Iterator[str]:
    """An emulator of Google Cloud Storage with one bucket, where it is installed; its address."""
    pytest.importorskip("google.cloud.storage", reason="needs: pip install gcsfs")
    pytest.importorskip("gcp_storage_emulator", reason="needs: pip install gcp-storage-emulator")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "from gcp_storage_emulator.server import create_server; import time\n"
        f"create_server('127.0.0.1', {port}, in_memory=True, default_bucket={bucket!r}).start()\n"
        f"print('http://127.0.0.1:{port}', flush=True); time.sleep(1e6)"
    )
    with serving("gcs", [sys.executable, "-c", code]) as address:
        yield address


@contextmanager
def serving(name: str, command: Sequence[str]) -> Iterator[str]:
    """Run a server in a folder that is gone afterwards; give its address once it answers."""
    with tempfile.TemporaryDirectory(prefix=f"{name.lower()}-", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "output.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_surroundings() | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _wait_for_answer(name, process, log)
        finally:
            _end(process)


def _surroundings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}


def _wait_for_answer(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    ends_at = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < ends_at:
        found = _LISTENS.search(log.read_text("utf-8", "replace"))
        if found and _ask(found[0], "GET", "/"):
            return found[0]
        time.sleep(0.05)
    ended = f"ended with {process.returncode}" if process.poll() is not None else f"gave no answer in {LIMIT_S:.0f} s"
    pytest.fail(f"{name} {ended}. Its output:\n{log.read_text('utf-8', 'replace')}", pytrace=False)


def _ask(address: str, method: str, path: str) -> int:
    """The status of the answer, 0 where nobody answers; no proxy stands between."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=LIMIT_S)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started; there is nothing to save."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _find_azurite() -> Path:
    """The folder with the pinned Azurite, installed once for each checkout and each change of the pins."""
    pin = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in PINS)).hexdigest()[:12]
    folder = CACHE / pin
    if shutil.which("node") is None:
        _lack("Azurite needs node and npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        _lack("Azurite needs npm")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".installing-") as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        for name in PINS:
            shutil.copy(HERE / name, new)
        try:
            subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=new,
                env=_surroundings(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=INSTALL_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            _lack(f"npm did not install Azurite in {INSTALL_LIMIT_S:.0f} s")
        except subprocess.CalledProcessError as error:
            _lack(f"npm could not install Azurite: {error.stderr}")
        new.rename(folder)


def _lack(what: str) -> NoReturn:
    """CI must have it; elsewhere its tests are skipped by name."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
