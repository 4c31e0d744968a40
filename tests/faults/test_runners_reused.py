"""A runner that has finished an attempt takes the next: nothing of the former is left, and whoever dies meanwhile."""

import os
import signal
import time

import pytest

from runyard.protocol.runs import RunStatus
from tests.faults.house import WORKSPACE, House, is_running, kill, wait_until

pytestmark = pytest.mark.e2e

#: A script that reaches its runner, which only an unconfined one does.
TRUSTED = pytest.mark.parametrize("house", ["trusted"], indirect=True)


def _run(house: House, code: str = "") -> tuple[int, int]:
    """Let a run come to its end; returns its runner's pid and how many descriptors that had open meanwhile."""
    (house.stage / "go on").unlink(missing_ok=True)
    run_id = house.submit(f"await_file('go on')\n{code}")
    house.wait(run_id, RunStatus.RUNNING)
    pid = house.runner_pid(run_id)
    count = len(os.listdir(f"/proc/{pid}/fd"))
    house.tell("go on")
    run = house.wait(run_id)
    assert run.status == RunStatus.COMPLETED, run.error
    wait_until(lambda: not house.attempt_folder(run_id).exists(), "the attempt's folder is gone")
    return pid, count


def test_one_process_carries_out_many_attempts_and_keeps_nothing_of_them(house: House) -> None:
    found = [_run(house, "print('a line')\nrun.log('loss', 0.5)") for _ in range(12)]
    pid = max({pid for pid, _ in found}, key=[pid for pid, _ in found].count)
    counts = [count for one, count in found if one == pid]
    assert len(counts) >= 5, found
    assert counts[-1] <= counts[0] + 1, found
    assert os.listdir(f"/proc/{pid}/task") == [str(pid)]


def test_log_and_variables_are_those_of_the_present_attempt(house: House) -> None:
    for number in range(4):
        run_id = house.submit("print(os.environ['MINE'], os.environ.get('OTHER'))", environment_variables={
            "STAGE": str(house.stage), "MINE": str(number), **({"OTHER": "x"} if number == 0 else {})
        })  # fmt: skip
        house.wait(run_id)
        assert house.log(run_id) == f"{number} {'x' if number == 0 else None}\n"


@TRUSTED
@pytest.mark.parametrize(
    "change",
    [
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, 0) + 3)",
        "os.sched_setaffinity(os.getppid(), {min(os.sched_getaffinity(0))})",
        "open(f'/proc/{os.getppid()}/oom_score_adj', 'w').write('900')",
        "import resource\nfor kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):\n"
        "    resource.prlimit(os.getppid(), kind, (200, resource.prlimit(os.getppid(), kind)[1]))",
    ],
    ids=["niceness", "affinity", "oom_score_adj", "limits"],
)
def test_what_a_script_did_to_its_runner_does_not_reach_the_next_run(house: House, change: str) -> None:
    pid, _ = _run(house, change)
    assert pid not in [_run(house)[0] for _ in range(3)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_next_run_starts_although_the_idle_runner_was_killed(house: House, number: int) -> None:
    pid, _ = _run(house)
    os.kill(pid, number)
    wait_until(lambda: not is_running(pid), "the idle runner has ended")
    assert _run(house)[0] != pid


def test_idle_runner_ends_with_the_nursery(house: House) -> None:
    pid, _ = _run(house)
    kill(house.nursery_pid())
    wait_until(lambda: not is_running(pid), "the idle runner has ended")


def test_idle_runner_ends_with_the_server(house: House) -> None:
    pid, _ = _run(house)
    house.kill_server()
    wait_until(lambda: not is_running(pid), "the idle runner has ended")


def test_cancel_reaches_the_present_attempt_only(house: House) -> None:
    _run(house)
    run_id = house.submit("tell('goes')\nawait_file('never')")
    house.hear("goes")
    house.server.call("cancel_run", workspace=WORKSPACE, run_id=run_id)
    assert house.wait(run_id).status == RunStatus.CANCELED
    _run(house)


def test_killed_runner_that_was_used_before_leaves_no_process(house: House) -> None:
    _run(house)
    code = "child = subprocess.Popen(['sleep', '1000'])\ntell('child', known(child.pid))\nawait_file('never')"
    run_id = house.submit(code)
    (child,) = house.hear_pids("child")
    kill(house.runner_pid(run_id))
    began = time.monotonic()
    assert house.wait(run_id).status == RunStatus.FAILED
    assert time.monotonic() - began < 15
    assert not is_running(child)
    _run(house)
