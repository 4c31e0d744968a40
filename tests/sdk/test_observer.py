"""What becomes of a run when the process that logs it ends, in order or not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from runyard.azureml.core import Experiment, Run, Workspace
from runyard.client.local_server import connect
from runyard.sdk.session import forget_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

START = """
import os, sys, signal
from runyard.azureml.core import Experiment, Run, Workspace
run = Experiment(Workspace.get("left"), "trial").start_logging()
print(run.id, flush=True)
for number in range(5):
    run.log("x", number)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(tmp_path_factory.mktemp("left-home")))
        forget_server()
        yield Workspace.create("left", exist_ok=True)
        found = connect()
        found.call("stop_server")
        found.close()
        forget_server()


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("", "Completed", None),
        ("raise ValueError('no such thing')", "Failed", "ValueError: no such thing"),
        ("if os.fork() == 0: sys.exit()\nos.wait()\nassert run.get_status() == 'Running'", "Completed", None),
        ("run.fail('by hand')", "Failed", "by hand"),
    ],
)
def test_run_ends_as_its_process_does(workspace: Workspace, end: str, status: str, error: str | None) -> None:
    done = subprocess.run([sys.executable, "-c", START + end], stdout=subprocess.PIPE, check=False)
    run = Run.get(workspace, done.stdout.decode().split()[0])
    assert run.status == status
    assert run.get_metrics() == {"x": [0, 1, 2, 3, 4]}
    assert (run.get_details().get("error") or {"error": {"message": None}})["error"]["message"] == error


def test_run_of_a_killed_process_is_failed_with_all_that_it_logged(workspace: Workspace) -> None:
    code = START + "if os.fork() == 0: signal.pause()\nos.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        run = Run.get(workspace, process.stdout.readline().decode().strip())
        process.wait(20)
        ends_at = time.monotonic() + 20
        while run.get_status() == "Running":
            assert time.monotonic() < ends_at, "nobody ended the run"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    assert run.get_metrics() == {"x": [0, 1, 2, 3, 4]}
    assert run.get_details()["error"]["error"]["message"] == "The process that logged this run is gone."


def test_value_logged_to_a_run_that_exists_is_sent_at_the_end(workspace: Workspace) -> None:
    run = Experiment(workspace, "trial").start_logging()
    run.complete()
    code = START.partition("run =")[0] + f"Run.get(Workspace.get('left'), {run.id!r}).log('late', 1)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert run.get_metrics() == {"late": 1}
    assert run.get_status() == "Completed"
