"""A process and its local server: one that went away is started again by the next thing that is asked."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Experiment, Workspace
from runyard.client.home import read_server_file, server_file
from runyard.errors import ServerUnreachableError
from runyard.files.processes import is_alive
from runyard.sdk.session import current_server
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with own_server(tmp_path / "home"):
        yield tmp_path / "home"


def test_a_server_that_was_killed_is_started_by_the_next_request(home: Path) -> None:
    workspace = Workspace.create("again", exist_ok=True)
    run = Experiment(workspace, "trial").start_logging()
    _end(home, signal.SIGKILL)
    run.tag("mood", "good")
    assert run.tags == {"mood": "good"}
    _end(home, signal.SIGKILL)
    assert Workspace.create("again", exist_ok=True).name == "again"
    run.complete()


def test_a_server_that_was_stopped_is_started_by_the_next_request(home: Path) -> None:
    workspace = Workspace.create("again", exist_ok=True)
    _end(home, signal.SIGTERM)
    assert Experiment(workspace, "trial").name == "trial"


def test_who_only_waits_does_not_start_a_server_that_was_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Experiment(Workspace.create("again", exist_ok=True), "trial").start_logging()
    server = current_server()
    monkeypatch.setattr(server, "_patience_s", 0.5)
    asked, request = threading.Event(), server._request

    def tell(*words: Any) -> Any:
        asked.set()
        return request(*words)

    monkeypatch.setattr(server, "_request", tell)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(run.wait_for_completion)
        assert asked.wait(20)
        _end(home, signal.SIGTERM)
        with pytest.raises(ServerUnreachableError):
            waiting.result(20)
    assert read_server_file(server_file(home)) is None
    run.complete()


def _end(home: Path, number: int) -> None:
    record: Any = read_server_file(server_file(home))
    os.kill(int(record["pid"]), number)
    ends_at = time.monotonic() + 20
    while is_alive(record):
        assert time.monotonic() < ends_at, "the server is still there"
        time.sleep(0.01)
