"""What becomes of a run when the process that logs it ends, in order or not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from runyard.azureml.core import Experiment, Run, Workspace
from tests.own_server import own_server

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
    with own_server(tmp_path_factory.mktemp("left-home")):
        yield Workspace.create("left", exist_ok=True)


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("", "Completed", None),
        ("raise ValueError('no such thing')", "Failed", "ValueError: no such thing"),
        ("if os.fork() == 0: sys.exit()\nos.wait()\nassert run.get_status() == 'Running'", "Completed", None),
        ("run.fail('by hand')", "Failed", "by hand"),
        ("sys.exit(3)", "Failed", "The process ended with exit code 3."),
        ("import contextlib\nwith contextlib.ExitStack():\n    sys.exit('no data')", "Failed", "no data"),
        ("sys.exit()", "Completed", None),
        ("sys.exit(0)", "Completed", None),
        ("try:\n    sys.exit(1)\nexcept SystemExit as error:\n    kept = error", "Completed", None),
        ("try:\n    sys.exit(1)\nexcept SystemExit:\n    pass\nsys.exit(0)", "Completed", None),
        ("import threading\nthreading.Thread(target=sys.exit, args=(1,)).start()", "Completed", None),
        ("import _thread, time\n_thread.start_new_thread(sys.exit, (1,))\ntime.sleep(0.2)", "Completed", None),
        ("if os.fork() == 0: sys.exit(1)\nos.wait()", "Completed", None),
        ("assert sys.exit.__self__ is not sys\nrun.complete()\nassert sys.exit.__self__ is sys", "Completed", None),
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


@pytest.mark.parametrize(
    ("ahead", "flags"),
    [
        ("", ["-i"]),
        ("import sys; sys.ps1 = '> '\n", []),
        ("import sys, types; sys.modules['IPython'] = types.SimpleNamespace(get_ipython=object)\n", []),
    ],
)
def test_error_at_a_prompt_is_not_the_end_of_the_run(workspace: Workspace, ahead: str, flags: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *flags, "-c", ahead + START + "raise ValueError('a slip')"],
        input=b"raise KeyError('another')\n",
        stdout=subprocess.PIPE,
        check=False,
    )
    assert Run.get(workspace, done.stdout.decode().split()[0]).status == "Completed"


@pytest.mark.parametrize(
    ("end", "status"),
    [("", "Completed"), ("raise ValueError", "Failed"), ("os.kill(os.getpid(), signal.SIGKILL)", "Failed")],
)
def test_killed_observer_is_replaced_and_told_again(workspace: Workspace, end: str, status: str) -> None:
    kill = """
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    (observer,) = map(int, file.read().split())
os.kill(observer, signal.SIGKILL)
os.waitid(os.P_PID, observer, os.WEXITED | os.WNOWAIT)
other = Experiment(Workspace.get("left"), "trial").start_logging()
print(other.id, flush=True)
other.log("x", 1)
"""
    done = subprocess.run([sys.executable, "-c", START + kill + end], stdout=subprocess.PIPE, check=False)
    runs = [Run.get(workspace, name) for name in done.stdout.decode().split()]
    ends_at = time.monotonic() + 20
    while any(run.get_status() == "Running" for run in runs):
        assert time.monotonic() < ends_at, "nobody ended the runs"
        time.sleep(0.05)
    assert [run.get_status() for run in runs] == [status, status]
    assert [run.get_metrics() for run in runs] == [{"x": [0, 1, 2, 3, 4]}, {"x": 1}]


def test_values_are_sent_at_the_end_although_the_observer_was_killed(workspace: Workspace) -> None:
    run = Experiment(workspace, "trial").start_logging()
    run.complete()
    code = (
        START.partition("run =")[0]
        + f"""
import runyard.client.shipper
runyard.client.shipper.MetricsShipper.ship = lambda self: None
Run.get(Workspace.get('left'), {run.id!r}).log('late', 1)
with open(f"/proc/self/task/{{os.getpid()}}/children") as file:
    (observer,) = map(int, file.read().split())
os.kill(observer, signal.SIGKILL)
os.waitid(os.P_PID, observer, os.WEXITED | os.WNOWAIT)
"""
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert run.get_metrics() == {"late": 1}
