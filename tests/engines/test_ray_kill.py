"""What is left of a run on Ray that is killed: nothing, whatever its script has done against that."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Run
from tests.engines.engines import Engine, make_engine, wait_until, with_prefix
from tests.engines.ray_cluster import RAY

pytestmark = RAY

#: Ignores TERM, and starts a daemon of its own session that does too and that carries no variable of the run.
TOUGH = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = sys.argv[1]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(os.path.join(folder, "daemon"), "w") as file:
            file.write(str(os.getpid()))
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)"], {})
    os._exit(0)
os.wait()
open("outputs/kept", "w").close()
while not os.path.exists(os.path.join(folder, "daemon")) or not os.path.getsize(os.path.join(folder, "daemon")):
    time.sleep(0.01)
with open(os.path.join(folder, "script.new"), "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, os.path.join(folder, "script"))
while not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    # In a sandbox the kernel would end a daemon with its script.
    with make_engine("ray", tmp_path_factory.mktemp("ray-kill"), RUNYARD_ISOLATION="trusted") as found:
        yield found


def begin(engine: Engine, folder: Path) -> tuple[Run, list[int]]:
    """Such a run, and all of its processes: supervisor, runner, script, daemon."""
    run = engine.submit(folder, TOUGH, str(folder))
    wait_until((folder / "script").exists, "its script runs")
    wait_until(lambda: run.get_status() == "Running", "it runs")
    runner = engine.runner_pid(run)
    supervisor = int(Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[1])
    found = [supervisor, runner, int((folder / "script").read_text()), int((folder / "daemon").read_text())]
    assert "supervise" in Path(f"/proc/{supervisor}/cmdline").read_text()
    assert Path(f"/proc/{found[3]}/cmdline").read_text().startswith(sys.executable)
    return run, found


def is_gone(pid: int) -> bool:
    """Is there no such process, or only what its parent has not collected yet?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def check_canceled(engine: Engine, run: Run, pids: list[int]) -> None:
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    wait_until(lambda: all(map(is_gone, pids)), "all of its processes are gone")
    wait_until(lambda: not list(with_prefix("RUNYARD_RAY_ATTEMPT", "runyard:")), "nothing carries its name", 30)


def test_cancel_ends_what_ignores_it(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    check_canceled(engine, run, pids)
    wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_runner_that_does_not_listen_is_replaced_and_the_record_completed(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    os.kill(pids[1], signal.SIGSTOP)
    check_canceled(engine, run, pids)
    assert "outputs/kept" in run.get_file_names()
    wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_where_nothing_listens_all_of_it_is_ended(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGSTOP)
    check_canceled(engine, run, pids)


def test_runner_without_its_supervisor_completes_its_run(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    other = engine.submit(tmp_path, "print('looked at since')")
    other.wait_for_completion()
    (tmp_path / "go").touch()
    run.wait_for_completion()
    wait_until(lambda: all(map(is_gone, pids)), "all of its processes are gone")


def test_runner_without_its_supervisor_can_be_killed(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGSTOP)
    check_canceled(engine, run, pids)


def test_script_that_has_lost_both_is_ended(engine: Engine, tmp_path: Path) -> None:
    run, pids = begin(engine, tmp_path)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "Its compute target lost it in attempt 1." in run.get_details()["error"]["error"]["message"]
    wait_until(lambda: is_gone(pids[2]), "its script is gone")
    # Nothing tells whose it was once all above it have gone without a word.
    os.kill(pids[3], signal.SIGKILL)
