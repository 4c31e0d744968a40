"""kill -9 of a runner, a script, the nursery, and the machine itself: the right cause, soon, and nothing left over."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from runyard.files.processes import identity
from runyard.protocol.compute import ClusterSpec
from runyard.protocol.datastores import DatastoreKind, DatastoreSpec
from runyard.protocol.outputs import OutputSpec
from runyard.protocol.runs import Run, RunStatus
from tests.emulators.servers import S3
from tests.faults.house import WORKSPACE, House, is_running, kill, wait_until

pytestmark = pytest.mark.e2e

#: A lost run must be known as such by then, seconds.
DETECTION_S = 15.0
#: A script with a child and a grandchild in a session of its own; all of them would go on for ever.
FAMILY = """
if os.path.exists(os.path.join(HERE, "second time")):
    print("second time")
    raise SystemExit(0)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
run.log("loss", 0.5)
print("started", flush=True)
tell("pids", f"{known(os.getpid())} {known(child.pid)}")
await_file("never")
"""


def _start(house: House, **spec: object) -> tuple[str, list[int]]:
    run_id = house.submit(FAMILY, **spec)
    pids = house.hear_pids("pids")
    house.wait(run_id, RunStatus.RUNNING)
    return run_id, pids


def _wait_for_end(house: House, run_id: str) -> Run:
    began = time.monotonic()
    run = house.wait(run_id)
    assert time.monotonic() - began < DETECTION_S
    return run


def test_killed_runner_fails_its_run_with_the_cause_and_leaves_no_process(house: House) -> None:
    run_id, pids = _start(house)
    kill(house.runner_pid(run_id))
    run = _wait_for_end(house, run_id)
    assert run.status == RunStatus.FAILED
    assert run.error is not None, run
    assert run.error.code == "SystemError"
    assert "supervised" in run.error.message
    assert not [pid for pid in pids if is_running(pid)]
    assert house.log(run_id) == "started\n"
    assert house.metric(run_id, "loss") == [0.5]


def test_killed_runner_and_killed_server_together_fail_the_run_after_the_restart(house: House) -> None:
    run_id, pids = _start(house)
    house.kill_server()
    kill(house.runner_pid(run_id))
    house.start()
    run = _wait_for_end(house, run_id)
    assert run.status == RunStatus.FAILED
    assert run.error is not None, run
    assert run.error.code == "SystemError"
    assert not [pid for pid in pids if is_running(pid)]


def test_killed_script_fails_its_run_naming_the_signal(house: House) -> None:
    run_id, pids = _start(house)
    kill(pids[0])
    run = _wait_for_end(house, run_id)
    assert run.status == RunStatus.FAILED
    assert run.error is not None, run
    assert "SIGKILL" in run.error.message
    assert run.exit_code == -signal.SIGKILL
    assert not [pid for pid in pids if is_running(pid)]


def test_script_that_raises_fails_its_run_with_its_last_words(house: House) -> None:
    run = house.wait(house.submit("print('before', flush=True)\nraise ValueError('the loss is NaN')"))
    assert run.status == RunStatus.FAILED
    assert run.exit_code == 1
    assert run.error is not None, run
    assert run.error.code == "UserError"
    assert "ValueError: the loss is NaN" in run.error.message
    assert "before" in run.error.details


def test_next_run_starts_although_the_nursery_was_killed(house: House) -> None:
    assert house.wait(house.submit("print('one')")).status == RunStatus.COMPLETED
    kill(house.nursery_pid())
    assert house.wait(house.submit("print('two')")).status == RunStatus.COMPLETED


def test_running_run_does_not_notice_the_death_of_the_nursery(house: House) -> None:
    run_id = house.submit("tell('started')\nawait_file('go on')\nprint('done')")
    house.hear("started")
    kill(house.nursery_pid())
    house.tell("go on")
    run = house.wait(run_id)
    assert run.status == RunStatus.COMPLETED, run.error
    assert house.log(run_id) == "done\n"


def test_low_priority_run_starts_again_after_its_machine_is_lost(house: House) -> None:
    cluster = ClusterSpec("cheap", vm_priority="lowpriority", max_nodes=1)
    house.server.call("create_cluster", cluster, workspace=WORKSPACE)
    run_id, pids = _start(house, target="cheap")
    house.tell("second time")
    kill(house.runner_pid(run_id))
    run = house.wait(run_id)
    assert (run.status, run.attempt, run.error) == (RunStatus.COMPLETED, 2, None)
    assert not [pid for pid in pids if is_running(pid)]
    assert house.steps(run_id)[-6:] == ["Running", "Finalizing", "Queued", "Running", "Finalizing", "Completed"]
    assert house.log(run_id).endswith("second time\n")


def test_dedicated_run_starts_again_where_that_was_asked(house: House) -> None:
    run_id, _ = _start(house, max_infrastructure_retries=1)
    house.tell("second time")
    kill(house.runner_pid(run_id))
    run = house.wait(run_id)
    assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)


def test_foreign_process_is_never_taken_for_a_runner_after_a_reboot(house: House) -> None:
    run_id, pids = _start(house)
    house.kill_server()
    for pid in [house.runner_pid(run_id), *pids]:
        kill(pid)
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        record = identity(foreign.pid) | {"boot_id": "11111111-1111-1111-1111-111111111111"}
        (house.attempt_folder(run_id) / "runner.json").write_text(json.dumps(record))
        house.start()
        run = _wait_for_end(house, run_id)
        assert run.status == RunStatus.FAILED
        assert run.error is not None, run
        assert run.error.code == "SystemError"
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_process_that_took_the_pid_of_a_runner_is_left_alone(house: House) -> None:
    run_id, _ = _start(house)
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        house.kill_server()
        kill(house.runner_pid(run_id))
        path = house.attempt_folder(run_id) / "runner.json"
        record = json.loads(path.read_text()) | {"pid": foreign.pid}
        path.write_text(json.dumps(record))
        house.start()
        house.server.call("cancel_run", workspace=WORKSPACE, run_id=run_id)
        assert _wait_for_end(house, run_id).status in (RunStatus.CANCELED, RunStatus.FAILED)
        assert foreign.poll() is None
        wait_until(lambda: not house.script_pids(), "the script's processes are gone")
    finally:
        foreign.kill()
        foreign.wait()


def test_stopped_runner_is_not_responding_until_it_goes_on_and_holds_up_no_cancel(house: House) -> None:
    waiting, canceled = house.submit("tell('one'); await_file('go')"), house.submit("tell('two'); await_file('never')")
    house.hear("one")
    house.hear("two")
    for run_id in (waiting, canceled):
        house.wait(run_id, RunStatus.RUNNING)
        os.kill(house.runner_pid(run_id), signal.SIGSTOP)
    house.server.call("cancel_run", workspace=WORKSPACE, run_id=canceled)
    assert house.wait(canceled).status == RunStatus.CANCELED
    run = house.wait(waiting, RunStatus.NOT_RESPONDING)
    assert "was not heard of" in (run.reason or "")
    os.kill(house.runner_pid(waiting), signal.SIGCONT)
    house.wait(waiting, RunStatus.RUNNING)
    house.tell("go")
    assert house.wait(waiting).status == RunStatus.COMPLETED


def test_runner_that_its_machine_ends_fails_the_run_and_is_no_cancel(house: House) -> None:
    run_id = house.submit("tell('ready'); await_file('never')")
    house.hear("ready")
    house.wait(run_id, RunStatus.RUNNING)
    os.kill(house.runner_pid(run_id), signal.SIGTERM)
    run = house.wait(run_id)
    assert run.status == RunStatus.FAILED
    assert run.error is not None
    assert "ended by its machine" in run.error.message
    wait_until(lambda: not house.script_pids(), "nothing of the run is left")


def test_daemon_without_its_environment_does_not_outlive_a_killed_runner(house: House) -> None:
    run_id = house.submit(
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell("daemon", known(os.getpid()))
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os._exit(0)
await_file("never")
"""
    )
    (daemon,) = house.hear_pids("daemon")
    house.wait(run_id, RunStatus.RUNNING)
    kill(house.runner_pid(run_id))
    assert house.wait(run_id).status == RunStatus.FAILED
    wait_until(lambda: not is_running(daemon), "the daemon is gone")


WRITES = """
with open(os.path.join(os.environ["MADE"], "of every attempt"), "w") as file:
    file.write("again" if os.path.exists(os.path.join(HERE, "written")) else "first")
tell("written")
await_file("go")
"""


@pytest.mark.xdist_group("storage")
def test_second_attempt_writes_over_what_the_first_has_stored_of_a_mounted_output(house: House, s3: S3) -> None:
    s3.make_bucket("mounted")
    known = {"key": s3.key, "secret": s3.secret}
    store = DatastoreSpec("bucket", DatastoreKind.S3, "mounted", endpoint=s3.endpoint, credentials=known)
    house.server.call("register_datastore", store, workspace=WORKSPACE)
    cluster = ClusterSpec("cheap", vm_priority="lowpriority", max_nodes=1)
    house.server.call("create_cluster", cluster, workspace=WORKSPACE)
    run_id = house.submit(WRITES, target="cheap", outputs=(OutputSpec("made", "bucket", path="fixed"),))
    house.hear("written")
    kill(house.runner_pid(run_id))
    house.tell("go")
    run = house.wait(run_id)
    assert (run.status, run.attempt, run.error) == (RunStatus.COMPLETED, 2, None)
    names = {"workspace": WORKSPACE, "name": "bucket", "path": "fixed/of every attempt"}
    assert b"".join(house.server.stream("read_datastore_file", **names)) == b"again"
