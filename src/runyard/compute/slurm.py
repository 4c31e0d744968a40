"""Runs on a Slurm cluster: an allocation an attempt, a runner a node, by the cluster's own programs.

Slurm's queue orders the runs: each is submitted as soon as it is ready, and shows Slurm's own reason while it waits.
Its key stands in the job's comment, where it is found again after any loss of this server.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from typing import Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from runyard.compute.remote import TOLD_S, EngineAwayError, Reach, node_program
from runyard.compute.watch import Watch
from runyard.errors import ComputeTargetException, ServiceException
from runyard.protocol.plan import LaunchPlan, Observation, ObservedState

#: A controller that does not answer in this time is away, seconds.
ANSWER_S = 20.0
#: A job's program beyond this is refused by Slurm as configured by default, bytes.
PROGRAM_BYTES_MAX = 4 << 20

#: What an attached cluster may be asked with: the names of sbatch's own options, without their dashes.
OPTIONS = (
    "account", "constraint", "cpus-per-task", "exclude", "exclusive", "gpus", "gpus-per-node", "gres",
    "licenses", "mem", "mem-per-cpu", "nice", "nodelist", "partition", "prefer", "priority", "qos", "reservation",
    "time", "tmp", "wckey",
)  # fmt: skip
#: Not an option of sbatch: where the nodes keep runners, environments and attempts.
FOLDER = "node_folder"

#: What Slurm's own programs say where the controller, or munge, does not answer.
_AWAY = (
    r"unable to contact slurm|connect failure|connection (refused|reset)|timed out|munge|unable to resolve|zero bytes"
)
#: How they say that there are too many jobs, of this user or at all, until some have ended.
_FULL = r"MaxSubmitJob|job submit limit|temporarily unable to accept|resource temporarily unavailable|too many jobs"
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
#: How a job ends whose nodes have failed, or were never there.
_NODE_LOST = ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")
_ALIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "RESIZING", "SIGNALING", "STOPPED")
#: Variables of the server's own environment that Slurm's programs need, beside those that begin with its name.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LD_LIBRARY_PATH", "TZ", "MUNGE_SOCKET")


class Job(NamedTuple):
    """A job as Slurm's queue shows it."""

    number: str
    state: str
    reason: str
    nodes: str


class SlurmCompute:
    """One attached cluster."""

    #: What Slurm has given up or forgotten it ends as soon as the node answers again.
    fence_s = 0.0

    def __init__(self, settings: Mapping[str, str], reach: Reach) -> None:
        self._settings = dict(settings)
        self._reach = reach
        self._watch = Watch("slurm", self._look)
        #: When each key was told to stop last: control asks each second until it has.
        self._told: Dict[str, float] = {}

    def prepare(self) -> None:
        """Nothing makes Slurm's first start faster."""

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        self._watch.begin(key, lambda: self._submit(key, plan, secret))

    def _submit(self, key: str, plan: LaunchPlan, secret: str) -> None:
        if key in self._queue():
            return
        program = node_program(self._reach, plan, secret, "SLURM_NODEID", self._settings.get(FOLDER, ""))
        script = job_script(program)
        if len(script) > PROGRAM_BYTES_MAX:
            raise ServiceException(f"The run's plan has {len(script)} bytes, more than a job of Slurm may.")
        said = _ask(["sbatch", *job_options(self._reach.mark, key, plan.node_count, self._settings)], script)
        if not said.strip().split(";")[0].isdigit():
            raise ServiceException(f"Slurm's sbatch made no job: {said.strip()[:200]!r}.")

    def recover(self, key: str) -> bool:
        """Each node has done what can be done; what is gone from Slurm is gone."""
        return False

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        asked = list(keys)
        for key in self._told.keys() - set(asked):
            del self._told[key]
        return self._watch.observe(asked)

    def stop(self, key: str) -> None:
        now = time.monotonic()
        if now - self._told.get(key, -TOLD_S) < TOLD_S:
            return
        self._told[key] = now
        self._watch.forget(key)
        # The first ends one that waits still; the second tells the runners, which need their time.
        self._watch.do(f"end {key}", lambda: self._cancel(key, "--state=PENDING"))
        self._watch.do(f"stop {key}", lambda: self._cancel(key, "--signal=TERM"))

    def kill(self, key: str) -> None:
        self._watch.do(f"kill {key}", lambda: self._cancel(key))

    def tidy(self, keys: Iterable[str], before: float) -> None:
        """The nodes do that themselves."""

    def close(self) -> None:
        self._watch.close()

    def _queue(self) -> Dict[str, Job]:
        """This server's jobs by key; EngineAwayError where Slurm does not answer."""
        text = _ask(["squeue", "--me", "--noheader", "--states=all", "--format=%A|%T|%r|%N|%k"], "")
        found, others = parse_queue(text, self._reach.mark)
        for number in others:
            # Slurm took it although its sbatch had not answered in time, and so it was submitted again.
            _ask(["scancel", number], "")
        return found

    def _look(self, _keys: Sequence[str]) -> Dict[str, Observation]:
        return {key: observation(key, job) for key, job in self._queue().items()}

    def _cancel(self, key: str, *options: str) -> None:
        job = self._queue().get(key)
        if job is not None:
            _ask(["scancel", *options, job.number], "")


def check_settings(settings: Mapping[str, str]) -> None:
    """ComputeTargetException for a setting that is none, and where this host has no Slurm."""
    for name in settings:
        if name not in (*OPTIONS, FOLDER):
            raise ComputeTargetException(
                "A Slurm target has no setting {!r}; there are: {}.".format(name[:80], ", ".join((*OPTIONS, FOLDER)))
            )
    for name, text in settings.items():
        if text == "help" or ("/" in text and name in ("exclude", "nodelist")):
            # sbatch would print a list and submit nothing, or read the file of that name.
            raise ComputeTargetException(f"The setting {name!r} cannot be {text[:80]!r}.")
    if shutil.which("sbatch") is None:
        raise ComputeTargetException(
            "The server finds no sbatch on its PATH: install Slurm's client there and give it the cluster's slurm.conf."
        )
    partition = settings.get("partition")
    try:
        known = _ask(["sinfo", "--noheader", "--format=%R"], "").split()
    except ServiceException as error:
        raise ComputeTargetException(f"The Slurm cluster cannot be attached: {error.message}") from None
    for name in (partition or "").split(","):
        if name and name not in known:
            raise ComputeTargetException(
                "The Slurm cluster has no partition {!r}; it has: {}.".format(name, ", ".join(known) or "none")
            )


def job_options(mark: str, key: str, nodes: int, settings: Mapping[str, str]) -> List[str]:
    """sbatch's words for an attempt. It is never requeued by Slurm: a new attempt is a new job."""
    mine = [f"--{name}={settings[name]}" if settings[name] else f"--{name}" for name in OPTIONS if name in settings]
    return [
        "--parsable", "--no-requeue", f"--nodes={nodes}", "--ntasks-per-node=1",
        f"--ntasks={nodes}", f"--job-name=runyard-{key.rpartition('/')[0]}", f"--comment={comment(mark, key)}",
        "--chdir=/", "--output=/tmp/runyard-slurm-%j.log", *mine,
    ]  # fmt: skip


def job_script(program: str) -> str:
    """The job: each node runs the program from its standard input."""
    end = "RUNYARD_" + hashlib.sha256(program.encode()).hexdigest()[:16]
    # A step has one processor of the task's unless it is told, since Slurm 22.05; and our mpirun needs none of Slurm's.
    return (
        '#!/bin/sh\n[ -n "$SLURM_CPUS_PER_TASK" ] && export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"\n'
        "exec srun --kill-on-bad-exit=0 --wait=0 --cpu-bind=none --mpi=none python3 - runyard-supervise "
        f"<<'{end}'\n{program}\n{end}\n"
    )


def comment(mark: str, key: str) -> str:
    """What marks the job of an attempt of the server with that mark."""
    return f"runyard:{mark}:{key}"


def parse_queue(text: str, mark: str) -> Tuple[Dict[str, Job], List[str]]:
    """Jobs by key, of ``squeue --format=%A|%T|%r|%N|%k``, and the numbers of those that should not be.

    Of several with one key, the first that has not ended is the one, or else the last.
    """
    found: Dict[str, Job] = {}
    others: List[str] = []
    jobs: List[Tuple[str, Job]] = []
    for line in text.splitlines():
        number, state, reason, nodes, said = (line.split("|", 4) + [""] * 4)[:5]
        prefix = comment(mark, "")
        if said.startswith(prefix):
            jobs.append((said[len(prefix) :], Job(number, state, reason, nodes)))
    for key, job in sorted(jobs, key=lambda one: int(one[1].number)):
        if key not in found or not _is_there(found[key]):
            found[key] = job
        elif _is_there(job):
            others.append(job.number)
    return found, others


def _is_there(job: Job) -> bool:
    """Does it wait, or run?"""
    return job.state in (*_WAITING, *_ALIVE)


def observation(key: str, job: Job) -> Observation:
    """What a job says of its attempt."""
    if job.state in _WAITING:
        return Observation(key, ObservedState.WAITING, _why(job))
    if job.state in _ALIVE:
        return Observation(key, ObservedState.ALIVE)
    where = f" on {job.nodes}" if job.nodes else ""
    log = f"/tmp/runyard-slurm-{job.number}.log"
    detail = f"Slurm's job {job.number}{where} ended as {job.state} ({job.reason}); see {log} there."
    return Observation(key, ObservedState.GONE, detail, is_node_lost=job.state in _NODE_LOST)


def _why(job: Job) -> str:
    if job.state == "CONFIGURING":
        return f"Waits for its nodes {job.nodes} of Slurm to come up (job {job.number})."
    meaning = {
        "Resources": "for free nodes",
        "Priority": "behind jobs of higher priority",
        "None": "to be looked at",
        "PartitionNodeLimit": "for more nodes than its partition may give: ask for fewer, or for another partition",
        "PartitionTimeLimit": "with a longer time than its partition allows: set the target's 'time'",
        "ReqNodeNotAvail": "for nodes that are down or reserved",
        "QOSMaxJobsPerUserLimit": "for another of your jobs to end (a limit of its QOS)",
    }.get(job.reason.split(",")[0], f"for: {job.reason}")
    return f"Waits in Slurm's queue {meaning} (job {job.number})."


def _ask(words: Sequence[str], text: str) -> str:
    """What one of Slurm's programs prints; EngineAwayError: its controller is away. ServiceException: it refused."""
    try:
        done = subprocess.run(
            list(words),
            input=text,
            env=_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineAwayError(f"Slurm's {words[0]} does not answer: {error}.") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())[-500:].rstrip(".")
    if re.search(_AWAY, said, re.IGNORECASE):
        raise EngineAwayError(f"Slurm's {words[0]} does not reach its controller: {said}.")
    if re.search(_FULL, said, re.IGNORECASE):
        raise EngineAwayError(f"Slurm takes no more jobs now: {said}.")
    raise ServiceException(f"Slurm's {words[0]} refused: {said}.")


def _environment() -> Dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name in _KEPT or name.startswith(("LC_", "SLURM_"))}
    # Were the server itself a job, its own allocation would be taken for the runs'.
    return {name: text for name, text in kept.items() if not name.startswith(("SLURM_JOB", "SLURM_STEP", "SLURM_PROC"))}
