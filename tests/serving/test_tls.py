"""Services beyond loopback: TLS by files that are renewed, lost, and taken away again."""

import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Webservice, Workspace
from runyard.client.local_server import is_running
from runyard.sdk.session import forget_server
from tests.serving.test_services import get, post
from tests.serving.test_survive import ECHO, fronts, seen_of, wait_until
from tests.serving.test_survive_server import begin

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]


class Beyond:
    """A server that listens on every address."""

    def __init__(self, folder: Path) -> None:
        self.home, self.trusted = folder / "home", folder / "trusted.pem"
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self.renew()

    def renew(self) -> None:
        """Another certificate, with another key; callers here trust both."""
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
        words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(self.certificate), "-keyout", str(self.key)]
        subprocess.run(["openssl", *words], check=True, capture_output=True)
        with open(self.trusted, "a") as file:
            file.write(self.certificate.read_text())

    def start(self, has_tls: bool = True) -> None:
        """Once the one before has ended."""
        tls = ["--host", "0.0.0.0", "--certificate", str(self.certificate), "--key", str(self.key)]
        command = [sys.executable, "-m", "runyard.server", "--home", str(self.home), "--port", "0"]
        self._process = subprocess.Popen([*command, *(tls if has_tls else [])], stderr=subprocess.DEVNULL)
        wait_until(lambda: is_running(self.home), "the server answers")

    def stop(self) -> None:
        """Services go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        forget_server()


@pytest.fixture
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beyond]:
    """It is this process's own."""
    made = Beyond(tmp_path_factory.mktemp("beyond"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(made.home))
        patch.setenv("SSL_CERT_FILE", str(made.trusted))
        forget_server()
        made.start()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def guarded(beyond: Beyond, script_folder: Any) -> Iterator[Webservice]:
    """A service that repeats what it is sent."""
    service = begin(Workspace.create("beyond", exist_ok=True), script_folder(ECHO), "guarded")
    service.wait_for_deployment(timeout_sec=60)
    yield service
    Workspace.get("beyond").webservices["guarded"].delete()


def bearer(service: Webservice, number: int = 0) -> dict[str, str]:
    return {"Authorization": "Bearer " + service.get_keys()[number]}


def served_by(service: Webservice) -> str:
    return ssl.get_server_certificate(("127.0.0.1", seen_of(service).port))


def test_beyond_loopback_a_service_speaks_tls_and_wants_its_key(guarded: Webservice) -> None:
    service = guarded
    assert service.scoring_uri.startswith("https://127.0.0.1:")
    assert service.swagger_uri.startswith("https://127.0.0.1:")
    base = service.scoring_uri.rpartition("/")[0]
    key = {"Authorization": "Bearer " + service.get_keys()[0]}
    for path in ("/metrics", "/swagger.json", "/v2", "/nowhere"):
        assert get(base + path)[0] == 401, path
    assert [get(base + path, **key)[0] for path in ("/metrics", "/swagger.json")] == [200, 200]
    assert [get(base + path)[0] for path in ("/", "/v2/health/live", "/v2/health/ready")] == [200] * 3
    assert post(service.scoring_uri, [1])[0] == 401
    assert post(service.scoring_uri, [1], **key) == (200, [1])
    assert service.run("[1]") == [1]
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(base.replace("https", "http") + "/", timeout=10)
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        urllib.request.urlopen(base + "/", timeout=10, context=nobody)


def test_renewed_certificate_is_served_without_a_new_process(beyond: Beyond, guarded: Webservice) -> None:
    before, processes = served_by(guarded), fronts(guarded)
    beyond.renew()
    wait_until(lambda: served_by(guarded) != before, "it is there")
    assert served_by(guarded).strip() == beyond.certificate.read_text().strip()
    assert post(guarded.scoring_uri, [1], **bearer(guarded)) == (200, [1])
    assert fronts(guarded) == processes


def test_lost_or_broken_key_file_ends_no_service_and_holds_up_no_new_key(beyond: Beyond, guarded: Webservice) -> None:
    before, processes, present = served_by(guarded), fronts(guarded), bearer(guarded, 1)
    key = beyond.key.read_bytes()
    for text in (None, b"no key"):
        beyond.key.unlink(missing_ok=True)
        if text is not None:
            beyond.key.write_bytes(text)
        guarded.regen_key("Secondary")
        old, present = present, bearer(guarded, 1)
        wait_until(lambda: post(guarded.scoring_uri, 1, **old)[0] == 401, "the old key ends")  # noqa: B023 - called here
        assert post(guarded.scoring_uri, 1, **present) == (200, 1)
    wait_until(lambda: "the certificate cannot be used" in guarded.get_logs(), "the log says so")
    assert f"the certificate cannot be read ([Errno 2] No such file or directory: '{beyond.key}')" in guarded.get_logs()
    beyond.key.write_bytes(key)
    assert (served_by(guarded), fronts(guarded)) == (before, processes)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can read a key that is another user's")
def test_key_of_another_user_is_read_by_the_supervisor(beyond: Beyond, guarded: Webservice) -> None:
    os.chown(beyond.key, 12_345, 12_345)
    beyond.key.chmod(0o600)
    (front,) = fronts(guarded)
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: fronts(guarded) not in ([], [front]), "another front")
    assert post(guarded.scoring_uri, 1, **bearer(guarded)) == (200, 1)


def test_server_without_tls_has_services_without_tls(beyond: Beyond, guarded: Webservice) -> None:
    port, key = seen_of(guarded).port, bearer(guarded)
    beyond.stop()
    for has_tls, scheme in ((False, "http"), (True, "https")):
        beyond.start(has_tls)
        service = Workspace.get("beyond").webservices["guarded"]
        assert service.scoring_uri == f"{scheme}://127.0.0.1:{port}/score"
        wait_until(lambda: answers(service, key), "it answers there")  # noqa: B023 - called here
        beyond.stop()
    beyond.start()


def answers(service: Webservice, key: dict[str, str]) -> bool:
    try:
        return post(service.scoring_uri, [5], **key) == (200, [5])
    except (urllib.error.URLError, OSError):
        return False
