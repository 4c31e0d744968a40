"""Several processes behind one: each with its own variables, log and end."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.runner.gang import Gang
from runyard.runner.processes import Script


@pytest.fixture
def gang(tmp_path: Path) -> Callable[[int], Gang]:
    """A function that makes a gang of so many, with no sandbox around."""

    def start(words: list[str], files: tuple[int, ...]) -> Script:
        return Script(words, {"PATH": os.defpath}, tmp_path, tmp_path / "all.txt", files)

    return lambda count: Gang(start, count)


def test_each_has_its_variables_its_log_and_its_end(gang: Callable[[int], Gang], tmp_path: Path) -> None:
    launch = gang(3)
    codes = ["exit 3", "kill -9 $$", 'echo "$NAME in $PWD"; ls /proc/self/fd | wc -l']
    (tmp_path / "work").mkdir()
    variables = {"PATH": os.defpath, "NAME": "one\nof them"}
    found = [
        launch(["sh", "-c", code], variables, tmp_path / "work", tmp_path / f"{number}.txt")
        for number, code in enumerate(codes)
    ]
    assert [one.wait(10) for one in found] == [3, -signal.SIGKILL, 0]
    assert [one.wait(0) for one in found] == [3, -signal.SIGKILL, 0], "asked again"
    for one in found:
        one.close()
    assert (tmp_path / "2.txt").read_text() == f"one\nof them in {tmp_path / 'work'}\n4\n", "and no file but its own"
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "all.txt").read_text() == ""


def test_program_that_is_not_there_is_said_in_its_log(gang: Callable[[int], Gang], tmp_path: Path) -> None:
    script = gang(1)(["no-such-program"], {"PATH": os.defpath}, tmp_path, tmp_path / "log.txt")
    assert script.wait(10) == 127
    script.close()
    assert "No such file or directory" in (tmp_path / "log.txt").read_text()


def test_all_are_asked_to_end_once(gang: Callable[[int], Gang], tmp_path: Path) -> None:
    launch, found = gang(2), []
    code = "trap 'echo heard' TERM; echo ready; for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done"
    for number in range(2):
        found.append(launch(["sh", "-c", code], {"PATH": os.defpath}, tmp_path, tmp_path / f"{number}.txt"))
    while not all((tmp_path / f"{number}.txt").exists() for number in range(2)):
        os.sched_yield()
    while not all("ready" in (tmp_path / f"{number}.txt").read_text() for number in range(2)):
        os.sched_yield()
    launch._sandbox = TellsAll(launch._sandbox)  # type: ignore[assignment]
    for one in found:
        one.terminate()
    assert [one.wait(10) for one in found] == [0, 0]
    for number, one in enumerate(found):
        one.close()
        assert (tmp_path / f"{number}.txt").read_text().count("heard") == 1


def test_end_of_the_sandbox_is_the_end_of_all(gang: Callable[[int], Gang], tmp_path: Path) -> None:
    launch = gang(2)
    found = [launch(["sleep", "100"], {"PATH": os.defpath}, tmp_path, tmp_path / "log.txt") for _ in range(2)]
    children = Path(f"/proc/{found[0].pid}/task/{found[0].pid}/children")
    while len(children.read_text().split()) < 2:
        os.sched_yield()
    for pid in [*map(int, children.read_text().split()), found[0].pid]:
        os.kill(pid, signal.SIGKILL)
    assert [one.wait(10) for one in found] == [-signal.SIGKILL] * 2
    for one in found:
        one.close()


class TellsAll:
    """In place of a sandbox, which tells what is in it: here they are the children of one process."""

    def __init__(self, sandbox: Script | None) -> None:
        assert sandbox is not None
        self.wait, self.close, self.pid = sandbox.wait, sandbox.close, sandbox.pid

    def terminate(self) -> None:
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        os.kill(self.pid, signal.SIGTERM)
