"""The program at the far end of an SSH connection, without the connection: what it begins, and what it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runyard.compute import ssh_host
from runyard.compute.ssh_line import NOISE_MAX, Door, Line
from runyard.errors import ServiceException
from tests.engines.engines import wait_until

#: A supervisor that lives until it is ended.
LIVES = "import time\nprint('lives', flush=True)\ntime.sleep(1000)\n"


class Host:
    """The program, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, ssh_host.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = self._say({"folder": str(folder), "mark": "mark"})

    def start(self, run: str, attempt: int, program: str = LIVES) -> dict[str, str]:
        """What is seen of the attempt after a start."""
        key = f"{run}/{attempt}"
        asked = {"do": "start", "key": key, "program": program, "runner": f"{key}/runner.json", "keys": [key]}
        seen: dict[str, str] = self._say(asked)["seen"][key]
        return seen

    def look(self, key: str) -> dict[str, str]:
        seen: dict[str, str] = self._say({"do": "look", "keys": [key]})["seen"][key]
        return seen

    def signal(self, key: str, how: str) -> None:
        self._say({"do": "signal", "key": key, "how": how})

    def record(self, run: str, attempt: int) -> Path:
        return self.folder / "ssh-mark" / f"{run}%2F{attempt}.json"

    def pid(self, run: str, attempt: int) -> int:
        return int(json.loads(self.record(run, attempt).read_text())["pid"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(10) == 0
        self._process.stdout.close()

    def _say(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    """The program for a block, and what it has begun ended after that."""
    found = Host(folder)
    try:
        yield found
    finally:
        found.close()
        for path in folder.glob("ssh-*/*.json"):
            with suppress(ProcessLookupError):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


def test_start_that_is_repeated_is_one_start_also_by_another_connection(tmp_path: Path) -> None:
    with host(tmp_path) as first:
        assert first.look("a/1") == {"state": "unknown"}
        assert first.start("a", 1) == {"state": "alive"}
        pid = first.pid("a", 1)
        first.close()
        # It outlives its connection.
        second = Host(tmp_path)
        assert second.start("a", 1) == {"state": "alive"}
        assert second.pid("a", 1) == pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: second.look("a/1")["state"] == "gone", "it is gone")
        # An attempt that was begun is never begun again.
        assert second.start("a", 1)["state"] == "gone"
        assert second.look("a/1")["said"] == "lives"
        first._process = second._process


def test_attempt_ends_an_earlier_one_of_its_run_before_it_begins(tmp_path: Path) -> None:
    with host(tmp_path) as here:
        here.start("a", 1)
        here.start("ab", 1)
        here.start("a", 2)
        wait_until(lambda: here.look("a/1")["state"] == "gone", "the earlier one is gone")
        assert [here.look(key)["state"] for key in ("a/2", "ab/1")] == ["alive", "alive"]


def test_stop_asks_and_end_does_not(tmp_path: Path) -> None:
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n"
    with host(tmp_path) as here:
        here.start("a", 1, stubborn + "print('ready', flush=True)\nwhile True:\n    signal.pause()\n")
        log = here.record("a", 1).with_suffix(".log")
        wait_until(lambda: log.read_text() == "ready\n", "it is ready")
        here.signal("a/1", "stop")
        wait_until(lambda: log.read_text() == "ready\nheard\n", "it has heard")
        here.signal("a/1", "kill")
        assert here.look("a/1")["state"] == "alive"
        here.signal("a/1", "end")
        wait_until(lambda: here.look("a/1")["state"] == "gone", "it is gone")
        here.signal("none/1", "end")


def test_restarted_machine_has_none_of_its_attempts(tmp_path: Path) -> None:
    with host(tmp_path) as here:
        here.start("a", 1)
        pid = here.pid("a", 1)
        known = json.loads(here.record("a", 1).read_text())
        here.record("a", 1).write_text(json.dumps({**known, "boot_id": "before"}))
        seen = here.look("a/1")
        assert (seen["state"], seen["why"]) == ("gone", "restarted")
        os.kill(pid, signal.SIGKILL)


def speaking_door(folder: Path, said: str, patch: pytest.MonkeyPatch) -> Door:
    """A machine whose login scripts say that: a client in ssh's place runs the far command here."""
    program = folder / "ssh"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nsys.stdout.write({said!r} + chr(10))\nsys.stdout.flush()\n"
        "os.execvp('sh', ['sh', '-c', sys.argv[-1]])\n"
    )
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Door("gpu7", 22, "me", folder / "known", {"password": "x"}, str(folder / "node"), "mark")


@pytest.mark.parametrize("said", ["", "Welcome!", '{"ready": 1}', "x" * 10_000])
def test_login_scripts_may_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    line = Line(speaking_door(tmp_path, said, monkeypatch))
    assert line.ask({"do": "look", "keys": ["a/1"]}) == {"seen": {"a/1": {"state": "unknown"}}}
    line.close()


def test_login_scripts_may_not_speak_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceException, match="The login scripts of me@gpu7 write to every command's output"):
        Line(speaking_door(tmp_path, "y\n" * NOISE_MAX, monkeypatch))
