"""What happens to runs on Slurm whose nodes, controller and places are taken away."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Run
from runyard.azureml.core.compute import ComputeTarget, SlurmCompute
from runyard.errors import ComputeTargetException
from tests.engines.engines import Engine, make_engine, wait_until, with_prefix
from tests.engines.phases import VARIABLES, phased_run
from tests.engines.slurm_cluster import SlurmCluster
from tests.own_server import log_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm"),
]

#: Writes a checkpoint when it is told to go, and tells whether it has found one.
CHECKPOINTS = """
import os, signal, sys, time
if os.path.exists("outputs/checkpoint"):
    print("found", open("outputs/checkpoint").read(), "in attempt", os.environ["AZUREML_RUN_ATTEMPT"])
    sys.exit(0)
def end(*_):
    open("outputs/checkpoint", "w").write("step 7")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(os.environ["READY"], "w").close()
while True:
    time.sleep(0.1)
"""

#: Logs once it is cut off, and waits; a second attempt ends at once.
CUT_OFF = """
import os, sys, time
from azureml.core import Run
folder, attempt, run = sys.argv[1], int(os.environ["AZUREML_RUN_ATTEMPT"]), Run.get_context()
def wait(name):
    while not os.path.exists(os.path.join(folder, name)):
        time.sleep(0.05)
run.log("begun", attempt)
if attempt == 1:
    wait("cut")
    run.log("cut", attempt)
    wait("go")
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("slurm", tmp_path_factory.mktemp("faults"), has_line=True, **VARIABLES) as found:
        folder = str(found.node_folder)
        for partition, priority in (("preemptable", "lowpriority"), ("cloud", "dedicated")):
            config = SlurmCompute.attach_configuration(partition, node_folder=folder, vm_priority=priority)
            ComputeTarget.attach(found.workspace, partition, config)
        yield found


@pytest.fixture
def slurm(engine: Engine) -> SlurmCluster:
    assert engine.slurm is not None
    return engine.slurm


def test_run_in_flight_ends_without_its_controller_and_the_next_waits_for_it(
    engine: Engine, slurm: SlurmCluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = engine.submit(tmp_path, f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n")
    wait_until(lambda: run.get_status() == "Running", "it runs")
    # A controller that is killed forgets what it has not saved.
    slurm.wait_until_saved(slurm.run("squeue", "-h", "-o", "%A").strip())
    slurm.kill_controller()
    try:
        go.touch()
        run.wait_for_completion()
        late = engine.submit(tmp_path, "print('late')")
        wait_until(lambda: "Waits for its compute target to answer" in engine.why(late), "it says what it waits for")
    finally:
        slurm.start_controller()
    late.wait_for_completion()


@pytest.mark.parametrize("victim", ["slurmd", "slurmctld"])
def test_daemon_killed_in_any_phase_costs_a_run_nothing(
    engine: Engine, slurm: SlurmCluster, tmp_path: Path, victim: str
) -> None:
    """While a node prepares itself and the other waits for it, and while outputs are on their way."""

    def kill() -> None:
        if victim == "slurmctld":
            # A controller that is killed forgets what it has not saved.
            slurm.wait_until_saved(slurm.run("squeue", "-h", "-o", "%A").strip())
            slurm.kill_controller()
        else:
            for node in slurm.steady:
                slurm.kill_slurmd(node)

    def start() -> None:
        if victim == "slurmctld":
            slurm.start_controller()
        else:
            for node in slurm.steady:
                slurm.start_slurmd(node)

    with phased_run(engine, tmp_path) as phased:
        kill()
        phased.go_on()
        start()
        phased.finalize()
        kill()
        # A node that is without its daemon when its job ends stays in use until Slurm asks again, half a minute later.
        start()
        phased.complete()
    wait_until(lambda: not slurm.run("squeue", "-h"), "no job is left")
    slurm.wait_for_nodes("idle", slurm.steady)


def test_preempted_run_goes_on_from_its_checkpoint(engine: Engine, slurm: SlurmCluster, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    run = engine.submit(
        tmp_path, CHECKPOINTS, compute_target="preemptable", environment_variables={"READY": str(ready)}
    )
    wait_until(ready.exists, "it can write a checkpoint")
    go = tmp_path / "go"
    job = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--chdir=/", "--output=/dev/null",
        f"--wrap=while [ ! -e {go} ]; do sleep 0.1; done",
    ).strip()  # fmt: skip
    try:
        slurm.wait_for_job(job, "RUNNING")
        wait_until(lambda: run.get_details()["attempt"] == 2, "it starts again")
        wait_until(lambda: "Waits in Slurm's queue" in engine.why(run), "it waits for its turn")
    finally:
        go.touch()
    run.wait_for_completion()
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().endswith("found step 7 in attempt 2\n")


def _typed(*words: str) -> "subprocess.CompletedProcess[str]":
    """A command of ours on targets, in the workspace of these tests."""
    command = [sys.executable, "-m", "runyard.cli", "compute", *words, "-w", "engines"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_stopped_target_tells_of_its_runs_and_is_drained_of_them(engine: Engine, tmp_path: Path) -> None:
    """Slurm's nodes are none of ours, its runs are."""
    config = SlurmCompute.attach_configuration("steady", node_folder=str(engine.node_folder))
    ComputeTarget.attach(engine.workspace, "brief", config)
    go = tmp_path / "go"
    script = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
    run = engine.submit(tmp_path, script, compute_target="brief")
    try:
        wait_until(lambda: run.get_status() == "Running", "it runs")
        assert "are not taken away from here; stop it without --now" in _typed("stop", "brief", "--now").stderr
        assert "brief is stopped (1 run there goes on to its end)" in _typed("stop", "brief").stdout
        for verb in ("evict", "drain"):
            assert "are its engine's own: Slurm's scontrol drains them" in _typed(verb, "brief", "n0").stderr
        late = engine.submit(tmp_path, "pass", compute_target="brief")
        wait_until(lambda: "is stopped, to be started" in engine.why(late), "the next one waits")
        late.cancel()
        late.wait_for_completion(raise_on_error=False)
        command = [sys.executable, "-m", "runyard.cli", "compute", "delete", "brief", "--drain", "-w", "engines"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as deleting:
            assert deleting.stderr is not None
            assert f"brief is stopped; waits for {run.id}." in deleting.stderr.readline()
            go.touch()
            assert deleting.wait(60) == 0
    finally:
        go.touch()
    run.wait_for_completion()


def test_node_comes_up_for_a_run(engine: Engine, tmp_path: Path) -> None:
    run = engine.submit(tmp_path, "import os\nprint(os.uname()[1])", compute_target="cloud")
    run.wait_for_completion()


@pytest.mark.parametrize("target", ["there", "preemptable"])
def test_run_whose_node_is_lost_is_told_or_starts_again(
    engine: Engine, slurm: SlurmCluster, tmp_path: Path, target: str
) -> None:
    """On a target of low priority it starts again, on another node; else its error names what Slurm says."""
    started = tmp_path / "started"
    script = (
        f"import os, time\nif os.environ['AZUREML_RUN_ATTEMPT'] == '1':\n    open({str(started)!r}, 'w').close()\n"
        "    time.sleep(1000)\n"
    )
    run = engine.submit(tmp_path, script, compute_target=target)
    wait_until(started.exists, "it runs")
    node = slurm.run("squeue", "-h", "-t", "R", "-o", "%N").split()[-1]
    slurm.kill_node(node)
    try:
        run.wait_for_completion(raise_on_error=False)
    finally:
        slurm.start_slurmd(node)
        slurm.wait_for_nodes("idle", [node])
    if target == "preemptable":
        assert (run.get_status(), run.get_details()["attempt"]) == ("Completed", 2)
    else:
        message = run.get_details()["error"]["error"]["message"]
        assert message.startswith("Its compute target lost it in attempt 1. Slurm's job")
        assert "NODE_FAIL" in message


def test_run_whose_node_is_lost_before_its_runner_says_a_word_begins_anew(
    engine: Engine, slurm: SlurmCluster, tmp_path: Path
) -> None:
    """On a dedicated target, and without a retry: nothing of it had begun, and nothing of that attempt ever will."""
    assert engine.line is not None
    known = engine.line.callers()
    engine.line.hold_new()
    run = engine.submit(tmp_path, "import os\nprint('attempt', os.environ['AZUREML_RUN_ATTEMPT'])")
    try:
        wait_until(lambda: engine.line is not None and bool(engine.line.callers() - known), "its node asks for it")
        node = slurm.run("squeue", "-h", "-t", "R", "-o", "%N").split()[-1]
        slurm.kill_node(node)
        engine.line.cut(engine.line.callers() - known)
        engine.line.release()
        run.wait_for_completion(raise_on_error=False)
    finally:
        engine.line.release()
        slurm.start_slurmd(node)
        slurm.wait_for_nodes("idle", [node])
    assert (run.get_status(), run.get_details()["attempt"]) == ("Completed", 2), run.get_details()
    assert log_of(run, tmp_path).endswith("attempt 2\n")


def begin(engine: Engine, folder: Path, target: str) -> tuple[Run, set[bytes]]:
    """A run that has been heard of; whom the line to the server knows its node by."""
    assert engine.line is not None
    known = engine.line.callers()
    folder.mkdir()
    run = engine.submit(folder, CUT_OFF, str(folder), compute_target=target)
    wait_until(lambda: run.get_status() == "Running" and run.get_metrics() == {"begun": 1}, "it is heard of")
    return run, engine.line.callers() - known


def test_network_that_heals_costs_nothing_and_one_that_does_not_an_attempt(
    engine: Engine, slurm: SlurmCluster, tmp_path: Path
) -> None:
    """Two runs are cut off from the server. One is heard of again; the other's node is lost for Slurm too."""
    assert engine.line is not None
    healing, lines = begin(engine, tmp_path / "healing", "there")
    lost, others = begin(engine, tmp_path / "lost", "preemptable")
    jobs = dict(line.split() for line in slurm.run("squeue", "-h", "-t", "R", "-o", "%P %N").splitlines())
    engine.line.hold(lines | others)
    try:
        for name in ("healing", "lost"):
            (tmp_path / name / "cut").touch()
        wait_until(lambda: healing.get_status() == lost.get_status() == "NotResponding", "they are missed")
        engine.line.release(lines)
        wait_until(lambda: healing.get_status() == "Running", "one is heard of again")
        (tmp_path / "healing" / "go").touch()
        slurm.kill_slurmd(jobs["preemptable"])
        healing.wait_for_completion()
        lost.wait_for_completion()
        left = list(with_prefix("RUNYARD_KEY", f"{lost.id}/1 "))
    finally:
        engine.line.release()
    assert left, "until the network heals it does not know that it was given up"
    wait_until(lambda: not list(with_prefix("RUNYARD_KEY", f"{lost.id}/1 ")), "then it is told, and ends")
    slurm.start_slurmd(jobs["preemptable"])
    slurm.wait_for_nodes("idle", slurm.steady)
    assert (healing.get_details()["attempt"], healing.get_metrics()) == (1, {"begun": 1, "cut": 1})
    # What the late attempt had to say was not taken.
    assert (lost.get_details()["attempt"], lost.get_metrics()) == (2, {"begun": [1, 2]})
    wait_until(lambda: engine.is_clean(healing) and engine.is_clean(lost), "nothing is left")


def test_what_cannot_be_attached_is_told(engine: Engine) -> None:
    for settings, said in (
        ({"partition": "none"}, "has no partition 'none'; it has: "),
        ({"wrap": "rm"}, "has no setting 'wrap'; there are: "),
        ({"partition": "steady\n"}, "is a line of text"),
    ):
        with pytest.raises(ComputeTargetException, match=said):
            ComputeTarget.attach(engine.workspace, "wrong", SlurmCompute.attach_configuration(**settings))
