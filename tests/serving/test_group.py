"""The processes of one revision as their supervisor keeps them: real ones, stepped by the test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard.protocol.services import REVISION_FILE, SEEN_FILE, WANTED_FILE, Access, Revision, Seen, Wanted
from runyard.protocol.wire import dumps, loads
from runyard.serving import front_process
from runyard.serving import group as module
from runyard.serving.front import UNSAID_MAX, Front
from runyard.serving.group import Group
from runyard.serving.orders import ORDER_MAX, pair, receive_order, send_order
from runyard.serving.sandbox import front_cell

#: The test's own limits: how long a front may say nothing, and how often the supervisor looks closer, seconds.
SILENT_S, LOOK_S = 15.0, 0.2
WAIT_S = 60.0
#: A supervisor in whose memory another release is than on the disk.
OLD_RELEASE = """
import sys
from runyard.serving import __main__, front_process, supervisor
front_process.__version__, supervisor.ANEW_S = "0.0.0", 0.5
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A script's, with one replica, that is asked by its listener."""
    (tmp_path / "score.py").write_text("import json\ndef run(text):\n    return json.loads(text) + 1\n")
    revision = Revision(
        1, "adds", "", "", {"entry_script": str(tmp_path / "score.py")}, sys.executable, str(tmp_path),
        {"PYTHONPATH": front_cell("", ()).work, "PATH": os.defpath},
    )  # fmt: skip
    (tmp_path / REVISION_FILE).write_text(dumps(revision))
    log = os.open(tmp_path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Group(tmp_path, revision, Wanted(1, 0, "127.0.0.1", 0), listener, log)
        made.accept()
        yield made
        made.end()
        made.wait()
        made.step(time.monotonic())
        made.close()
    os.close(log)


def step_until(group: Group, is_so: Callable[[], bool], what: str) -> None:
    gives_up_at, looked = time.monotonic() + WAIT_S, 0.0
    while not is_so():
        now = time.monotonic()
        assert now < gives_up_at, what
        group.step(now)
        if now - looked > LOOK_S:
            group.look_closer(now)
            looked = now
        group.read()
        time.sleep(0.02)


def ask(group: Group, number: int) -> int:
    port = group._listener.getsockname()[1]
    sent = urllib.request.Request(f"http://127.0.0.1:{port}/score", str(number).encode())
    with urllib.request.urlopen(sent, timeout=WAIT_S) as answer:
        return int(json.load(answer))


def front_of(group: Group) -> int:
    assert group._front is not None
    return group._front.process.pid


def test_front_that_is_stopped_is_replaced_and_one_that_is_idle_is_not(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", SILENT_S)
    step_until(group, lambda: group.is_ready, "it is ready")
    assert ask(group, 1) == 2
    front, until = front_of(group), time.monotonic() + SILENT_S + 2
    step_until(group, lambda: time.monotonic() > until, "it is left alone")
    assert front_of(group) == front
    os.kill(front, signal.SIGSTOP)
    step_until(group, lambda: group.is_ready and front_of(group) != front, "another front has come")
    assert ask(group, 2) == 3
    assert "the front has said nothing for 15 s" in (tmp_path / "log.txt").read_text()


def test_three_deaths_before_an_answer_are_the_revisions_failure(group: Group, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("import os\nos._exit(3)\n")
    step_until(group, lambda: bool(group.failure), "it has failed")
    assert group.failure == "The service does not start: replica 3 ended (exit code 3); see its log."
    said = [line.rpartition("Runyard: ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [one for one in said if "ended" in one] == [
        "replica 1 ended (exit code 3); it is started anew",
        "replica 2 ended (exit code 3); it is started anew in 0.5 s",
        "replica 3 ended (exit code 3)",
    ]


def test_front_that_takes_no_orders_is_replaced_since_it_would_miss_a_key(group: Group, tmp_path: Path) -> None:
    step_until(group, lambda: group.is_ready, "it is ready")
    front = front_of(group)
    os.kill(front, signal.SIGSTOP)
    for _ in range(10_000):
        group.set_access(Wanted(1, 0, "127.0.0.1", 0))
    group.set_access(Wanted(1, 0, "127.0.0.1", 0, access=Access.KEY))
    step_until(group, lambda: group.is_ready and front_of(group) != front, "another front has come")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(group, 1)


def test_front_of_another_release_is_no_death_and_asks_for_another_supervisor(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_process, "__version__", "0.0.0")
    step_until(group, lambda: group.is_outdated, "it has seen that")
    assert not group.failure
    monkeypatch.undo()
    step_until(group, lambda: group.is_ready, "another has come")
    assert "ended" not in (tmp_path / "log.txt").read_text()


def make_revision(folder: Path, number: int, script: str) -> None:
    """A revision of the service of that folder."""
    place = folder / "revisions" / str(number)
    place.mkdir(parents=True)
    (place / "score.py").write_text(script)
    made = Revision(
        number, "adds", "", "", {"entry_script": str(place / "score.py")}, sys.executable, str(place),
        {"PYTHONPATH": front_cell("", ()).work, "PATH": os.defpath},
    )  # fmt: skip
    (place / REVISION_FILE).write_text(dumps(made))


def seen_when(folder: Path, state: str) -> Seen:
    gives_up_at, path = time.monotonic() + WAIT_S, folder / SEEN_FILE
    while not path.exists() or loads(Seen, path.read_text()).state != state:
        assert time.monotonic() < gives_up_at, (folder / "log.txt").read_text()
        time.sleep(0.05)
    return loads(Seen, path.read_text())


def test_what_is_wanted_is_tried_where_what_was_good_cannot_be_loaded_any_more(tmp_path: Path) -> None:
    make_revision(tmp_path, 1, "raise ValueError('no longer')\n")
    make_revision(tmp_path, 2, "def run(text):\n    return 7\n")
    (tmp_path / WANTED_FILE).write_text(dumps(Wanted(2, 1, "127.0.0.1", 0)))
    with subprocess.Popen([sys.executable, "-m", "runyard.serving", str(tmp_path)]) as supervisor:
        try:
            seen = seen_when(tmp_path, "Healthy")
        finally:
            supervisor.terminate()
    assert (seen.revision, seen.failed_revision) == (2, 0)


def test_service_whose_certificate_was_never_there_fails_with_its_path(tmp_path: Path) -> None:
    make_revision(tmp_path, 1, "def run(text):\n    return 7\n")
    nowhere = str(tmp_path / "nowhere.pem")
    wanted = Wanted(1, 0, "127.0.0.1", 0, certificate=nowhere, certificate_key=nowhere)
    (tmp_path / WANTED_FILE).write_text(dumps(wanted))
    with subprocess.Popen([sys.executable, "-m", "runyard.serving", str(tmp_path)]) as supervisor:
        try:
            seen = seen_when(tmp_path, "Failed")
        finally:
            supervisor.terminate()
    assert seen.error == f"The certificate cannot be read: [Errno 2] No such file or directory: '{nowhere}'"


def test_supervisor_whose_release_is_gone_becomes_that_which_is_there(tmp_path: Path) -> None:
    make_revision(tmp_path, 1, "def run(text):\n    return 7\n")
    (tmp_path / WANTED_FILE).write_text(dumps(Wanted(1, 0, "127.0.0.1", 0)))
    with subprocess.Popen([sys.executable, "-c", OLD_RELEASE, str(tmp_path)]) as supervisor:
        try:
            seen = seen_when(tmp_path, "Healthy")
        finally:
            supervisor.terminate()
    assert seen.pid == supervisor.pid
    assert "Runyard was upgraded: all of the service's processes begin anew" in (tmp_path / "log.txt").read_text()


def test_nothing_that_a_front_says_is_lost_while_nobody_reads(tmp_path: Path) -> None:
    (tmp_path / REVISION_FILE).write_text(dumps(Revision(1, "adds", "", "", {}, "", "")))
    ours, theirs = pair()
    with socket.create_server(("127.0.0.1", 0)) as listener, ours, theirs:
        revision = os.open(tmp_path / REVISION_FILE, os.O_RDONLY)
        front = Front(theirs, {"revision": revision, "listener": listener.detach()})
        theirs.setblocking(False)
        for number in range(UNSAID_MAX):
            front._tell({"event": "replica_gone", "replica": number})
        ours.setblocking(False)
        said = []
        while len(said) < UNSAID_MAX:
            said.append(json.loads(ours.recv(ORDER_MAX))["replica"])
            front._say()
        front._listener.close()
    assert said == list(range(UNSAID_MAX))


def test_what_is_too_long_for_an_order_is_cut_and_arrives(tmp_path: Path) -> None:
    ours, theirs = pair()
    with ours, theirs:
        send_order(ours, {"event": "front_failed", "error": "\U0001f600" * 100_000, "traceback": "\0" * 100_000})
        found, _ = receive_order(theirs)
    assert (found["event"], found["error"], found["traceback"]) == ("front_failed", "\U0001f600" * 8_000, "\0" * 8_000)
