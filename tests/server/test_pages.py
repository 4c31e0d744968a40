"""The plain pages: what they show, and that they stay light however much a run has left behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.db import runs
from runyard.protocol.runs import Artifact
from runyard.server import pages
from tests.server.application import Application, now_us

PAGE = "/workspaces/here/runs/run-1"
LOG = "user_logs/std_log.txt"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    found.add_run("here", "run-1")
    yield found
    found.close()


def _show(app: Application) -> str:
    reply = app.send("GET", PAGE, {"authorization": "Bearer " + app.owner})
    assert reply.status == 200
    return reply.body.decode()


def _store(app: Application, path: str, data: bytes) -> None:
    (digest,) = app.parts.store.put_many([data])

    def write(connection: Any) -> None:
        row = runs.get_row(connection, "here", "run-1")
        runs.add_artifacts(connection, row, (Artifact(path, digest, len(data)),), "ann", now_us())

    app.parts.database.write(write)


def _end(app: Application) -> None:
    def write(connection: Any) -> None:
        runs.advance(connection, "run-1", "Starting", "Canceled", now_us(), ended_at=now_us())

    app.parts.database.write(write)


def test_page_of_a_run_that_has_ended_is_not_loaded_again(app: Application) -> None:
    _store(app, LOG, b"a tag named data-moving")
    assert "http-equiv" in _show(app)
    _end(app)
    assert "http-equiv" not in _show(app)


@pytest.mark.parametrize("name", ["what?.txt", "part#1.txt", "100%.txt", "a b.txt", "a&amp;b.txt", "d\u00fcne.txt"])
def test_link_to_a_file_leads_to_that_file(app: Application, name: str) -> None:
    _store(app, "outputs/" + name, b"its bytes")
    link = _show(app).partition('<td><a href="')[2].partition('"')[0]
    reply = app.send("GET", link, {"authorization": "Bearer " + app.owner})
    assert (reply.status, reply.body) == (200, b"its bytes")


def test_end_of_a_long_log_is_shown_and_the_rest_not_read(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    live = app.parts.logs_folder / "run-1" / LOG
    live.parent.mkdir(parents=True)
    live.write_bytes(b"first words" + b"." * pages.LOG_BYTES + b"last words")
    monkeypatch.setattr(Path, "read_bytes", None)
    shown = _show(app)
    assert "last words" in shown
    assert "first words" not in shown
