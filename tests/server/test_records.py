"""What runs leave behind, as the server keeps it: logs that grow, and how they are read."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from sqlalchemy import update

from runyard.control.run_logs import set_aside
from runyard.db.tables import runs
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.routes import BY_NAME
from runyard.server.call import Call
from runyard.server.dispatch import _pieces
from runyard.server.handlers import records
from tests.server.application import Application

LOG = {"workspace": "here", "run_id": "run-1", "path": "user_logs/std_log.txt"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    found.add_run("here", "run-1")
    yield found
    found.close()


@pytest.fixture
def runner(app: Application) -> str:
    return app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"))


def _append(app: Application, data: bytes, offset: int, path: str = LOG["path"]) -> int:
    """As a request's thread carries it out."""
    address = MappingProxyType({**LOG, "path": path})
    query = MappingProxyType({"offset": str(offset)})
    return records.append_log(Call(BY_NAME["append_log"], None, address, query, data, app.parts)).offset


def test_part_of_a_log_that_arrives_twice_at_once_is_kept_once(app: Application) -> None:
    data = b"x" * 100_000
    for number in range(50):
        path, both_are_here = f"logs/{number}.txt", threading.Barrier(2)

        def send(path: str = path, both_are_here: threading.Barrier = both_are_here) -> None:
            both_are_here.wait()
            _append(app, data, 0, path)

        threads = [threading.Thread(target=send) for _ in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert (app.parts.logs_folder / "run-1" / path).stat().st_size == len(data)


@pytest.mark.parametrize("parts", [[b"12345678901234"], [b"1234567890", b"1234"], [b"12345", b"67890", b"12", b"34"]])
def test_log_beyond_the_limit_is_cut_and_says_so_once(
    app: Application, runner: str, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(records, "LOG_MAX", 10)
    offset = 0
    for part in parts:
        reply = app.ask("append_log", part, token=runner, query=f"offset={offset}", **LOG)
        offset += len(part)
        assert reply.json["offset"] == offset
    found = app.ask("read_log", **LOG).body
    assert found == b"1234567890" + records.LOG_CUT


def test_log_of_an_attempt_that_is_over_is_refused(app: Application, runner: str) -> None:
    app.ask("append_log", b"first", token=runner, query="offset=0&attempt=1", **LOG)
    reply = app.ask("append_log", b" late", token=runner, query="offset=5&attempt=2", **LOG)
    assert (reply.status, "Attempt 2 of run run-1 is over" in reply.json["error"]["message"]) == (409, True)
    assert app.ask("read_log", **LOG).body == b"first"


def test_what_was_heard_of_a_lost_attempt_stays_beside_the_log_of_the_next_one(app: Application, runner: str) -> None:
    """Its machine took the log along: nothing of it is stored."""
    app.ask("append_log", b"first, and longer", token=runner, query="offset=0&attempt=1", **LOG)
    app.parts.database.write(lambda connection: connection.execute(update(runs).values(attempt=2)))
    for at_start in (True, False):
        set_aside(app.parts.logs_folder, "run-1", 2)
        if at_start:
            app.ask("append_log", b"second", token=runner, query="offset=0&attempt=2", **LOG)
        assert app.ask("read_log", **LOG).body == b"second"
        before = {**LOG, "path": "user_logs/attempt_1/std_log.txt"}
        assert app.ask("read_log", **before).body == app.ask("read_artifact", **before).body == b"first, and longer"
    listed = [one["path"] for one in app.ask("list_logs", workspace="here", run_id="run-1").json]
    assert listed == ["user_logs/attempt_1/std_log.txt", "user_logs/std_log.txt"]


def test_log_that_just_fits_is_not_cut(app: Application, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LOG_MAX", 10)
    app.ask("append_log", b"1234567890", token=runner, query="offset=0", **LOG)
    assert app.ask("read_log", **LOG).body == b"1234567890"


def test_log_that_grows_while_it_is_sent_is_sent_as_long_as_it_was(app: Application) -> None:
    _append(app, b"first", 0)
    call = Call(BY_NAME["read_artifact"], None, MappingProxyType(LOG), MappingProxyType({}), None, app.parts)
    content = records.read_artifact(call)
    _append(app, b"second", 5)
    assert b"".join(_pieces(content.file, content.size_bytes)) == b"first"
    assert app.ask("read_artifact", **LOG).body == b"firstsecond"


def test_looking_for_a_log_makes_nothing(app: Application) -> None:
    app.ask("read_log", **LOG)
    app.ask("read_artifact", **LOG)
    assert list(app.parts.logs_folder.iterdir()) == []
