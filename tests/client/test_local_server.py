"""The server of this home: found whether it speaks TLS or a proxy stands before it, and never started twice."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard.client.local_server import connect, ensure_running, is_running
from runyard.errors import ServiceException, UserErrorException

pytestmark = [pytest.mark.e2e]

Serve = Callable[..., None]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def serve(home: Path) -> Iterator[Serve]:
    """Starts a server in the foreground, as ``runyard up --foreground`` does, and waits until it is found."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **variables: str) -> None:
        command = [sys.executable, "-m", "runyard.server", "--home", str(home), *words]
        started.append(subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL))
        ends_at = time.monotonic() + 30
        while not is_running(home):
            assert started[0].poll() is None
            assert time.monotonic() < ends_at, "the server is not found"
            time.sleep(0.05)

    yield start
    for one in started:
        one.terminate()
        one.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of this machine that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not here")
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return files


def test_server_with_tls_is_found_and_not_started_again(
    home: Path, serve: Serve, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("--certificate", certificate[0], "--key", certificate[1])
    assert not ensure_running(home)
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    server = connect()
    assert server.address().startswith("https://127.0.0.1:")
    assert server.call("ping").name == "runyard"
    server.close()


def test_server_behind_a_proxy_is_reached_past_it_and_its_links_lead_through_it(home: Path, serve: Serve) -> None:
    serve(RUNYARD_PUBLIC_URL="https://yard.example/")
    assert not ensure_running(home)
    server = connect()
    info = server.call("server_info")
    assert (info.home, info.url, server.address()) == (str(home), "https://yard.example", "https://yard.example")
    assert server.url("ping") == "https://yard.example/api/1/ping"
    server.close()


def test_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserErrorException, match=r"cannot be written \(Not a directory\)\. Choose one"):
        ensure_running(tmp_path / "file" / "home")


def test_server_that_ends_at_once_is_quoted_by_its_error(tmp_path: Path) -> None:
    (tmp_path / "runyard.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ServiceException, match="file is not a database"):
        ensure_running(tmp_path)
