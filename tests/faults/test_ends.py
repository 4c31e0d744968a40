"""How runs end: cancelled in each phase, at their time limit, and the way through every state."""

import os
import sys
from pathlib import Path

import pytest

from runyard.errors import ConflictError
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, PythonSpec
from runyard.protocol.plan import Isolation
from runyard.protocol.runs import TRANSITIONS, Explanation, Run, RunStatus
from tests.faults.house import WORKSPACE, House, pids_of, wait_until

pytestmark = pytest.mark.e2e

BARE = EnvironmentSpec(
    name="bare", python=PythonSpec(conda=CondaSpec(packages=("python={}.{}".format(*sys.version_info[:2]),)))
)
#: Ignores TERM, and leaves a daemon that does so too, in a session of its own and nobody's child.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon = '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open(os.path.join(os.environ["STAGE"], "daemon"), "w").close()
time.sleep(1000)
'''
subprocess.run([sys.executable, "-c", daemon])
await_file("daemon")
tell("ready")
await_file("never")
"""


def _cancel(house: House, run_id: str) -> Run:
    found: Run = house.server.call("cancel_run", workspace=WORKSPACE, run_id=run_id)
    return found


def _assert_canceled(house: House, run_id: str) -> None:
    run = house.wait(run_id)
    assert (run.status, run.error) == (RunStatus.CANCELED, None)
    assert run.ended_at is not None
    assert RunStatus.CANCEL_REQUESTED in house.steps(run_id)
    wait_until(lambda: not house.script_pids() and not house.runner_pids(), "nothing of the run is left")


def test_run_passes_through_every_state_in_order(house: House) -> None:
    run_id = house.submit("print('hello')", environment=BARE)
    run = house.wait(run_id)
    assert house.steps(run_id) == ["Starting", "Preparing", "Queued", "Running", "Finalizing", "Completed"]
    events = house.events(run_id)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert [event.at for event in events] == sorted(event.at for event in events)
    for before, after in zip(house.steps(run_id), house.steps(run_id)[1:], strict=False):
        assert after in TRANSITIONS[before]
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.created_at <= run.started_at <= run.ended_at
    assert run.exit_code == 0
    assert run.lock
    for event in events:
        assert event.reason or event.status in ("Starting", "Running", "Finalizing", "Completed")


def test_crash_is_not_told_as_a_lack_of_memory(house: House) -> None:
    for number, whence in (("SIGSEGV", "a crash in compiled code"), ("SIGKILL", "out of memory, or by someone else")):
        run_id = house.submit(f"import os, signal\nos.kill(os.getpid(), signal.{number})\n")
        run = house.wait(run_id)
        assert run.error is not None
        assert f"was killed by {number} ({whence}" in run.error.message


def test_running_run_is_cancelled_and_keeps_its_log(house: House) -> None:
    run_id = house.submit("print('so far', flush=True)\nrun.log('a', 1)\ntell('ready')\nawait_file('never')")
    house.hear("ready")
    house.wait(run_id, RunStatus.RUNNING)
    _cancel(house, run_id)
    _assert_canceled(house, run_id)
    assert house.log(run_id) == "so far\n"
    assert house.metric(run_id, "a") == [1]


def test_script_that_ignores_term_and_its_daemons_are_ended(house: House) -> None:
    run_id = house.submit(STUBBORN)
    house.hear("ready")
    house.wait(run_id, RunStatus.RUNNING)
    assert len(house.script_pids()) >= 2
    _cancel(house, run_id)
    _assert_canceled(house, run_id)


DAEMONS = """
for number in range(150):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", NAME], {})
        os._exit(0)
tell("ready")
"""


@pytest.mark.parametrize("house", [Isolation.TRUSTED, Isolation.HIDDEN], indirect=True)
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "await_file('never')"])
def test_many_daemons_are_ended_with_their_run(house: House, end: str) -> None:
    """They have left its session, ignore TERM, and carry none of its variables."""
    name = f"1000.{os.getpid()}"
    run_id = house.submit(f"NAME = {name!r}\n{DAEMONS}{end}")
    house.hear("ready")
    if "never" in end:
        wait_until(lambda: len(pids_of("sleep", name)) == 150, "all daemons live")
        _cancel(house, run_id)
    house.wait(run_id)
    wait_until(lambda: not pids_of("sleep", name), "none of them is left")
    wait_until(lambda: not house.runner_pids(), "nor is its runner")


def test_script_may_tidy_up_when_it_is_cancelled(house: House) -> None:
    run_id = house.submit(
        "def end(*_):\n    print('tidied up', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\ntell('ready')\nawait_file('never')"
    )
    house.hear("ready")
    house.wait(run_id, RunStatus.RUNNING)
    _cancel(house, run_id)
    _assert_canceled(house, run_id)
    assert house.log(run_id) == "tidied up\n"


def test_waiting_run_is_cancelled_at_once(house: House) -> None:
    blockers = [house.submit("await_file('go on')") for _ in range(2)]
    for blocker in blockers:
        house.wait(blocker, RunStatus.RUNNING)
    run_id = house.submit("tell('it ran')")
    wait_until(lambda: "places" in (house.run(run_id).reason or ""), "it waits")
    why: Explanation = house.server.call("explain_run", workspace=WORKSPACE, run_id=run_id)
    assert "2 places" in why.waits_for
    assert why.unblocked_by
    _cancel(house, run_id)
    assert house.wait(run_id, limit_s=5).status == RunStatus.CANCELED
    house.tell("go on")
    for blocker in blockers:
        assert house.wait(blocker).status == RunStatus.COMPLETED
    assert not (house.stage / "it ran").exists()


def test_run_is_cancelled_while_its_environment_is_built(house: House) -> None:
    run_id = house.submit("tell('it ran')", environment=BARE)
    house.wait(run_id, RunStatus.PREPARING)
    _cancel(house, run_id)
    _assert_canceled(house, run_id)
    assert not (house.stage / "it ran").exists()


def test_cancel_right_after_the_submission_ends_the_run(house: House) -> None:
    for _ in range(5):
        run_id = house.submit("await_file('never')")
        _cancel(house, run_id)
        run = house.wait(run_id)
        assert run.status == RunStatus.CANCELED
    wait_until(lambda: not house.script_pids() and not house.runner_pids(), "nothing of the runs is left")


def test_cancel_while_the_outputs_are_stored_comes_too_late(house: House) -> None:
    run_id = house.submit("with open('outputs/large.bin', 'wb') as file:\n    file.truncate(1 << 30)\n")
    house.wait(run_id, RunStatus.FINALIZING)
    _cancel(house, run_id)
    run = house.wait(run_id)
    assert run.status == RunStatus.COMPLETED, run.error


def test_cancel_of_an_ended_run_changes_nothing(house: House) -> None:
    run_id = house.submit("print('done')")
    ended = house.wait(run_id)
    assert _cancel(house, run_id) == ended


def test_run_ends_at_its_time_limit(house: House) -> None:
    run = house.wait(house.submit("print('busy', flush=True)\nawait_file('never')", max_run_duration_s=1))
    assert run.status == RunStatus.FAILED
    assert run.error is not None, run
    assert run.error.code == "TimeLimit"
    assert "max_run_duration_seconds (1)" in run.error.message
    wait_until(lambda: not house.script_pids(), "its script is gone")


def test_what_a_script_left_running_is_ended_with_it(house: House) -> None:
    run_id = house.submit(
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], start_new_session=True)\n"
        "print('done')"
    )
    run = house.wait(run_id)
    assert run.status == RunStatus.COMPLETED, run.error
    assert not house.script_pids()


def test_environment_that_cannot_be_built_fails_the_run_with_the_package_named(house: House) -> None:
    pip = ("--no-index", "no-such-package-here==9.9")
    spec = EnvironmentSpec(name="wrong", python=PythonSpec(conda=CondaSpec(packages=("python=3.11",), pip=pip)))
    run = house.wait(house.submit("print('never')", environment=spec))
    assert run.status == RunStatus.FAILED
    assert run.error is not None, run
    assert run.error.code == "EnvironmentError"
    assert "no-such-package-here" in run.error.message


def test_same_submission_twice_is_one_run_and_another_of_its_id_is_refused(house: House) -> None:
    from runyard.protocol.runs import RunSpec

    run_id = house.submit("print('once')")
    spec = house.run(run_id).spec
    again = house.server.call("submit_run", spec, workspace=WORKSPACE)
    assert again.id == run_id
    with pytest.raises(ConflictError):
        house.server.call("submit_run", RunSpec(run_id, "trial", command=("true",)), workspace=WORKSPACE)
    assert house.wait(run_id).number == 1


def test_runs_of_one_id_in_two_homes_do_not_touch_each_other(house: House, tmp_path: Path) -> None:
    run_id = house.submit("tell('ready')\nawait_file('go on')")
    house.hear("ready")
    other = House(tmp_path / "other")
    try:
        assert other.submit("print('short')") == run_id
        assert other.wait(run_id).status == RunStatus.COMPLETED
        stopped = other.submit("await_file('never')")
        other.wait(stopped, RunStatus.RUNNING)
        _cancel(other, stopped)
        assert other.wait(stopped).status == RunStatus.CANCELED
    finally:
        other.clean()
    house.tell("go on")
    run = house.wait(run_id)
    assert run.status == RunStatus.COMPLETED, run.error
