"""What Slurm is asked, and how its queue is read."""

from pathlib import Path

import pytest

from runyard.compute.slurm import check_settings, job_options, job_script, observation, parse_queue
from runyard.errors import ComputeTargetException
from runyard.protocol.plan import ObservedState

QUEUE = """\
7|RUNNING|None|n[1-2]|runyard:mine:run-1/1
8|PENDING|Resources||runyard:mine:run-2/1
9|PENDING|Priority||runyard:other:run-1/1
10|FAILED|NonZeroExitCode|n1|runyard:mine:run-3/1
11|RUNNING|None|n1|runyard:mine:run-3/1
12|RUNNING|None|n1|(null)
13|PENDING|JobHeldUser||somebody|s own: comment
"""


def test_own_jobs_are_found_by_their_keys() -> None:
    found, others = parse_queue(QUEUE, "mine")
    assert not others
    assert {key: job.number for key, job in found.items()} == {"run-1/1": "7", "run-2/1": "8", "run-3/1": "11"}


@pytest.mark.parametrize(
    ("states", "kept", "ended"),
    [
        (("RUNNING", "PENDING"), "1", ["2"]),
        (("PENDING", "RUNNING", "PENDING"), "1", ["2", "3"]),
        (("COMPLETED", "RUNNING"), "2", []),
        (("RUNNING", "COMPLETED"), "1", []),
        (("FAILED", "COMPLETED"), "2", []),
    ],
)
def test_job_that_was_submitted_twice_is_ended(states: tuple[str, ...], kept: str, ended: list[str]) -> None:
    """sbatch may not answer in time although Slurm takes the job."""
    lines = [f"{number}|{state}|None|n1|runyard:mine:run-1/1" for number, state in enumerate(states, 1)]
    found, others = parse_queue("\n".join(reversed(lines)), "mine")
    assert (found["run-1/1"].number, others) == (kept, ended)


@pytest.mark.parametrize(
    ("state", "reason", "seen", "said"),
    [
        ("RUNNING", "None", ObservedState.ALIVE, ""),
        ("COMPLETING", "None", ObservedState.ALIVE, ""),
        ("PENDING", "Resources", ObservedState.WAITING, "Waits in Slurm's queue for free nodes (job 7)."),
        ("PENDING", "BadConstraints", ObservedState.WAITING, "Waits in Slurm's queue for: BadConstraints (job 7)."),
        ("CONFIGURING", "None", ObservedState.WAITING, "Waits for its nodes n1 of Slurm to come up (job 7)."),
        ("COMPLETED", "None", ObservedState.GONE, "Slurm's job 7 on n1 ended as COMPLETED (None); "),
        ("PREEMPTED", "None", ObservedState.GONE, "Slurm's job 7 on n1 ended as PREEMPTED (None); "),
        ("A_STATE_TO_COME", "None", ObservedState.GONE, "Slurm's job 7 on n1 ended as A_STATE_TO_COME (None); "),
    ],
)
def test_each_state_is_told(state: str, reason: str, seen: str, said: str) -> None:
    (job,) = parse_queue(f"7|{state}|{reason}|n1|runyard:mine:run-1/1", "mine")[0].values()
    found = observation("run-1/1", job)
    assert (found.state, found.detail.startswith(said)) == (seen, True)


def test_options_are_words_of_their_own() -> None:
    words = job_options(
        "mine", "run-1/2", 3, {"partition": "gpu; rm -rf /", "exclusive": "", "node_folder": "/scratch"}
    )
    assert "--partition=gpu; rm -rf /" in words
    assert "--exclusive" in words
    assert {"--nodes=3", "--ntasks=3", "--no-requeue", "--comment=runyard:mine:run-1/2"} <= set(words)
    assert not [word for word in words if "scratch" in word]


def test_program_cannot_end_the_job_s_own_text() -> None:
    program = "print(1)\nRUNYARD\nEND"
    lines = job_script(program).splitlines()
    end = lines[-1]
    assert lines.count(end) == 1
    assert f"<<'{end}'" in lines[2]


@pytest.mark.parametrize(("state", "is_lost"), [("NODE_FAIL", True), ("BOOT_FAIL", True), ("FAILED", False)])
def test_job_that_its_nodes_took_along_is_told_from_one_that_failed(state: str, is_lost: bool) -> None:
    """Where nothing of it had begun, its run begins anew."""
    (job,) = parse_queue(f"7|{state}|None|n1|runyard:mine:run-1/1", "mine")[0].values()
    assert observation("run-1/1", job).is_node_lost is is_lost


def test_cluster_that_does_not_answer_is_refused_as_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'fatal: Could not establish a configuration source' >&2\nexit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ComputeTargetException, match=r"The Slurm cluster cannot be attached: .*configuration source"):
        check_settings({"partition": "debug"})
