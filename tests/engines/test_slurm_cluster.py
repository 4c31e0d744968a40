"""The cluster that the tests of Slurm stand on does what they build on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.slurm_cluster import LIMIT_S, PROGRAMS, SEARCH_PATH, SlurmCluster, slurm_cluster

pytestmark = [
    pytest.mark.skipif(
        any(shutil.which(name, path=SEARCH_PATH) is None for name in PROGRAMS),
        reason="tests/system-packages.sh installs Slurm",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.e2e,
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def submit(cluster: SlurmCluster, folder: Path, script: str, *options: str) -> str:
    """A job that runs this script in that folder; its number, once the script has made the file ``started``."""
    file = folder / "job.sh"
    file.write_text(f"#!/bin/bash\n{script}\n")
    job = cluster.run("sbatch", "--parsable", f"--chdir={folder}", "--output=log", *options, str(file)).strip()
    wait_until((folder / "started").exists, lambda: cluster.logs())
    return job


def wait_until(reached: Callable[[], bool], said: Callable[[], str] = str) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < ends_at, said()
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def processes_of(folder: Path) -> list[int]:
    """Every process that was started with a path in that folder in its variables, as jobs and daemons are."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder / "slurm.conf") in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


#: Until the test says so; one that has been forgotten ends by itself.
WAIT_FOR_GO = "for _ in {1..600}; do [ -e go ] && exit 0; sleep 0.1; done; exit 9"


def test_a_step_runs_on_two_nodes(cluster: SlurmCluster) -> None:
    assert sorted(cluster.run("srun", "-N2", "printenv", "SLURMD_NODENAME").split()) == ["n1", "n2"]
    assert len(cluster.run("srun", "-N2", "hostname").split()) == 2


def test_a_job_makes_a_node_of_the_cloud_come_up_and_it_goes_when_idle(cluster: SlurmCluster) -> None:
    cluster.wait_for_nodes("idle~", cluster.cloud)
    # The job itself looks: once it has ended, its node may be off before anybody else does.
    looks = ("sh", "-c", "printenv SLURMD_NODENAME; sinfo -h -N -o '%N %t'")
    (here, *_), *seen = [line.split() for line in cluster.run("srun", "-p", "cloud", "-N1", *looks).splitlines()]
    states = {name: state for name, state, *_ in seen if name in cluster.cloud}
    assert here in states
    assert {name for name, state in states.items() if not state.endswith("~")} == {here}, states
    cluster.wait_for_nodes("idle~", cluster.cloud)


def test_an_urgent_job_sends_a_preemptable_one_away_with_a_term(cluster: SlurmCluster, tmp_path: Path) -> None:
    # Slurm sends it to the steps; the batch script gets one just before the KILL at the end of the grace.
    step = "trap 'touch termed; exit 0' TERM; touch started; while :; do sleep 0.1; done"
    job = submit(cluster, tmp_path, f'srun bash -c "{step}"', "-N1", "-p", "preemptable", "-w", "n1")
    cluster.run("srun", "-p", "urgent", "-N2", "true")
    assert (tmp_path / "termed").exists()
    # PREEMPTED is what had to be killed; this one has ended by itself.
    cluster.wait_for_job(job, "COMPLETED")
    assert "PreemptTime=2" in cluster.run("scontrol", "show", "job", job)


def test_a_job_outlives_its_controller(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"touch started; {WAIT_FOR_GO}", "-N2")
    cluster.wait_until_saved(job)
    cluster.kill_controller()
    cluster.start_controller()
    assert cluster.job_state(job) == "RUNNING"
    (tmp_path / "go").touch()
    cluster.wait_for_job(job, "COMPLETED")


def test_a_job_outlives_the_daemon_of_its_node(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"touch started; {WAIT_FOR_GO}", "-N1", "-w", "n1")
    cluster.kill_slurmd("n1")
    cluster.start_slurmd("n1")
    (tmp_path / "go").touch()
    cluster.wait_for_job(job, "COMPLETED")


@pytest.mark.slow
def test_a_node_that_is_killed_takes_its_job_along(cluster: SlurmCluster, tmp_path: Path) -> None:
    script = f"setsid sleep 600 & echo $! > left; touch started; {WAIT_FOR_GO}"
    job = submit(cluster, tmp_path, script, "-N1", "-w", "n2", "--no-requeue")
    left = int((tmp_path / "left").read_text())
    assert is_alive(left)
    cluster.kill_node("n2")
    assert not is_alive(left)
    cluster.wait_for_job(job, "NODE_FAIL")
    cluster.start_slurmd("n2")
    cluster.wait_for_nodes("idle", ["n2"])


def test_two_clusters_live_beside_each_other_and_one_that_closes_leaves_nothing(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    with slurm_cluster(tmp_path, steady=1, cloud=0) as other:
        assert other.states() == {"n1": "idle"}
        submit(other, tmp_path, "setsid sleep 600 & touch started; sleep 600")
        assert cluster.run("srun", "-N2", "hostname")
        sockets = other.sockets
        assert sockets.exists()
        assert processes_of(tmp_path)
    assert not processes_of(tmp_path)
    assert not sockets.exists()
    assert cluster.run("srun", "-N2", "hostname")


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.engines.slurm_cluster import slurm_cluster\n"
        "with slurm_cluster(Path(sys.argv[1]), steady=1, cloud=0) as cluster:\n"
        "    print(cluster.sockets, flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        sockets = Path(tests.stdout.readline().strip())
        assert processes_of(tmp_path)
        tests.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_of(tmp_path))
    shutil.rmtree(sockets)
