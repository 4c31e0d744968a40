"""The door of replicas on other machines: a real front's, with and without TLS, and the program that comes to it."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
from sklearn.linear_model import LogisticRegression

from runyard.client.http import Server
from runyard.protocol.services import ReplicaPlan, replica_secret
from runyard.scoring.loaded import Loaded
from runyard.sdk import replica
from runyard.sdk.session import forget_server
from runyard.serving import door as doors
from runyard.serving.door import Door
from runyard.serving.replicas import Job, Pool
from tests.engines.engines import wait_until
from tests.serving.fronts import DIGITS, LABELS, revision

uvloop = pytest.importorskip("uvloop")

KEY = "the-key-of-this-service"
RUN = "service-digits_1_a"


class Opened:
    """A door that is open, and what it has told."""

    def __init__(self, loop: Any, pool: Pool, told: list[dict[str, Any]], port: int) -> None:
        self.loop, self.pool, self.told, self.port = loop, pool, told, port

    def plan(self, run_id: str = RUN, number: int = 1, has_tls: bool = False, key: str = KEY) -> ReplicaPlan:
        """What the server tells such a run."""
        return ReplicaPlan({}, {}, replica_secret(key, "digits", number, run_id), self.port, has_tls)

    def events(self) -> list[str]:
        return [one["event"] for one in self.told]

    def ask(self, rows: int) -> Any:
        """The model's labels of so many digits."""
        answered = threading.Event()
        said: list[Any] = []

        def done(outputs: Any, error: Any) -> None:
            said.append(outputs if error is None else error)
            answered.set()

        inputs = {"data": numpy.asarray(DIGITS[:rows] / 16)}
        name = self.pool.facts.default if self.pool.facts else ""
        inputs = {self.pool.facts.signatures[name].inputs[0].name: inputs["data"]} if self.pool.facts else {}
        self.loop.call_soon_threadsafe(self.pool.submit, Job(name, inputs, rows, done))
        assert answered.wait(30)
        return said[0]


@contextmanager
def opened(make_loop: Callable[[], Any], tls: ssl.SSLContext | None = None) -> Iterator[Opened]:
    """A front's door, on that kind of event loop."""
    loop, told = make_loop(), []
    made = revision(target="there", timeout_s=5.0)
    pool = Pool(made.deployment, told.append)
    door = Door(made, pool, told.append)
    door.set_key(KEY)
    listener = socket.create_server(("127.0.0.1", 0))
    loop.run_until_complete(door.open(listener, tls))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Opened(loop, pool, told, listener.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(door._server.close)
        for one in [*door.unproven, *door._inside.values()]:
            loop.call_soon_threadsafe(one.drop)
        loop.call_soon_threadsafe(loop.call_later, 0.05, loop.stop)
        thread.join()
        loop.close()
        listener.close()


@pytest.fixture
def in_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a run whose server is on this machine."""
    for name, text in (("AZUREML_RUN_ID", RUN), ("AZUREML_RUN_TOKEN", "x"), ("RUNYARD_SERVER", "https://127.0.0.1:1")):
        monkeypatch.setenv(name, text)
    forget_server()
    yield
    forget_server()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=200).fit(DIGITS / 16, LABELS), path)
    return Loaded({"framework": "ScikitLearn", "model": str(path)})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not here")
    folder = tmp_path_factory.mktemp("certificate")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", "head.pem", "-keyout", "head.key"]
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)
    return folder


LOOPS = pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@LOOPS
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
def test_replica_that_proves_its_run_answers_and_ends_when_it_is_let_go(
    make_loop: Callable[[], Any], has_tls: bool, in_run: None, model: Loaded, certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tls = None
    if has_tls:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "head.pem"))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate / "head.pem", certificate / "head.key")
    with opened(make_loop, tls) as front:
        # However long there was none: the first one counts at once.
        front.pool.look(time.monotonic() - 60)
        assert front.pool.is_lacking(time.monotonic())
        line = replica._connect(front.plan(has_tls=has_tls), RUN)
        ends: list[bool] = []
        thread = threading.Thread(target=lambda: ends.append(model.serve(line)))
        thread.start()
        wait_until(lambda: "replica_ready" in front.events(), "it is ready", 10)
        assert front.told[0] == {"event": "replica_joined", "replica": 1, "run": RUN, "place": "127.0.0.1"}
        for rows in (1, 1500):
            found = front.ask(rows)["predict"]
            assert (found == LABELS[:rows]).mean() > 0.9
        front.loop.call_soon_threadsafe(front.pool.dismiss, 1)
        thread.join(10)
        assert ends == [True]
        line.close()
        wait_until(lambda: front.events()[-1] == "replica_gone", "the front knows", 10)


def test_certificate_that_nobody_trusts_is_refused(in_run: None, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "head.pem", certificate / "head.key")
    with opened(asyncio.new_event_loop, tls) as front:
        with pytest.raises(ssl.SSLCertVerificationError):
            replica._connect(front.plan(has_tls=True), RUN)
        assert front.pool.busy_count == front.pool.ready_count == 0


def test_secret_is_of_one_run_of_one_revision_of_one_service(in_run: None) -> None:
    with opened(uvloop.new_event_loop) as front:
        wrong = [
            (front.plan(), "service-digits_1_b"),
            (front.plan(number=2), RUN),
            (front.plan(key="another"), RUN),
            (ReplicaPlan({}, {}, replica_secret(KEY, "other", 1, RUN), front.port), RUN),
        ]
        for plan, run_id in wrong:
            with pytest.raises((replica._Refused, ConnectionError)):
                replica._connect(plan, run_id)
        assert "replica_joined" not in front.events()
        replica._connect(front.plan(), RUN).close()
        assert "replica_joined" in front.events()


def test_run_that_comes_again_takes_the_place_of_its_dead_connection(in_run: None) -> None:
    with opened(uvloop.new_event_loop) as front:
        first = replica._connect(front.plan(), RUN)
        second = replica._connect(front.plan(), RUN)
        wait_until(lambda: front.events().count("replica_gone") == 1, "the first is gone", 10)
        assert len(front.pool._replicas) == 1
        first.close()
        second.close()


def test_many_strangers_take_no_more_than_their_places(in_run: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "UNPROVEN_MAX", 10)
    monkeypatch.setattr(doors, "PROOF_S", 1.0)
    with opened(uvloop.new_event_loop) as front:
        lines = [socket.create_connection(("127.0.0.1", front.port), timeout=10) for _ in range(30)]
        # All are let go, those at once that found no place and the silent ones in time; then others have places.
        for line in lines:
            try:
                while line.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            line.close()
        replica._connect(front.plan(), RUN).close()
        wait_until(lambda: "replica_joined" in front.events(), "there is a place", 10)
        strangers = [one for one in front.told if one["event"] == "stranger"]
        assert len(strangers) == 1, "the log is not filled"


def test_nobody_waits_for_ever_where_there_is_no_replica() -> None:
    made, now = revision(target="there", timeout_s=60.0), time.monotonic()
    pool = Pool(made.deployment, lambda event: None)
    failed: list[Any] = []
    pool.look(now)
    pool.submit(Job("predict", {}, 1, lambda _, error: failed.append(error)))
    pool.look(now + 59)
    assert failed == []
    pool.look(now + 61)
    assert [one.status for one in failed] == [503]
    assert pool.busy_count == 0


def test_replica_that_reaches_nobody_ends_with_a_sentence(
    in_run: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZUREML_ARM_WORKSPACE_NAME", "ws")
    monkeypatch.setattr(replica, "NO_SERVER_S", 0.5)
    monkeypatch.setattr(Server.__init__, "__defaults__", (0.1, None))
    assert replica.main() == 1
    assert "The server cannot be reached from this node: The server at https://127.0.0.1:1" in capfd.readouterr().err
