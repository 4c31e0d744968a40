"""What a run waits for: since when, what would unblock it, and for how long, by the runs before it."""

from statistics import median
from typing import Optional, Sequence, Tuple

from sqlalchemy import Connection

from runyard.compute.remote import WAITS_FOR_ANSWER
from runyard.control.places import can_tell_when, describe_gpu_help
from runyard.control.schedule import LOCAL, estimate_wait_s
from runyard.db import fleet, runs
from runyard.errors import ComputeTargetException
from runyard.protocol.compute import ClusterSpec, EngineKind
from runyard.protocol.runs import TERMINAL, Explanation, Run, RunStatus
from runyard.protocol.words import counted, last_few


def explain_run(connection: Connection, run: Run, local_slots: int, now: int) -> Explanation:
    """All of it; sentences, '' where there is nothing to say."""
    waits_for, unblocked, estimate, since = describe(run), "", "", run.reason_at
    if run.status == RunStatus.QUEUED:
        since = run.queued_at or run.reason_at
        spec = _spec_of(connection, run)
        if run.node is None:
            before = _count_before(connection, run)
            comes = f"{counted(before, 'run')} {'comes' if before == 1 else 'come'} before it"
            waits_for += f" {comes}." if before else " It is the next one."
            if can_tell_when(run.reason or "") and not _waits_for_somebody(run, spec):
                estimate = _estimate_turn(connection, run, spec, before, local_slots)
        else:
            estimate = _estimate_start(connection, run, now)
        unblocked = unblocked_by(run, spec)
    elif run.status == RunStatus.PREPARING:
        unblocked = f"Its build; follow it with: runyard run logs {run.id} -f"
        estimate = _estimate_build(connection, run)
    elif run.status == RunStatus.NOT_RESPONDING:
        unblocked = f"A word of its runner, after which it goes on; to give it up: runyard run cancel {run.id}"
    elif run.status == RunStatus.CANCEL_REQUESTED:
        unblocked = "The end of its processes: they are killed after their grace, once their machine has heard of it."
    elif run.status == RunStatus.FINALIZING and "disk is full" in (run.reason or ""):
        unblocked = "Free space on the disk that the sentence names."
    return Explanation(run.id, run.status, waits_for, unblocked, since, estimate)


def describe(run: Run) -> str:
    """What the run waits for, in one sentence."""
    if run.status in TERMINAL:
        return f"Nothing: the run has ended as {run.status}."
    return run.reason or {
        # What it was warned of last: that its GPUs do nothing, say.
        RunStatus.RUNNING: " ".join(("Its script runs.", *run.warnings[-1:])),
        RunStatus.FINALIZING: "Its outputs are being stored.",
    }.get(run.status, f"It is {run.status}.")


def unblocked_by(run: Run, spec: Optional[ClusterSpec]) -> str:
    """What lets a queued run begin; ``spec`` of its cluster, None: it has none."""
    if run.target == LOCAL:
        return "A local run that ends, or a cluster with more nodes." if run.node is None else ""
    if spec is None:
        return f"Cancel it, or create the compute target {run.target!r} again."
    if spec.is_stopped and run.node is None:
        return f"Its start: runyard compute start {spec.name}"
    if _is_too_large(run, spec) and run.node is None:
        return f"More nodes: runyard compute update {spec.name} --max-nodes {run.spec.node_count}"
    if "does not answer" in (run.reason or "") or (run.reason or "").startswith(WAITS_FOR_ANSWER):
        return f"The answer of {run.target!r}; nothing is lost meanwhile."
    if spec.kind == EngineKind.SLURM:
        return "Slurm's own queue decides: squeue shows it, and sinfo the nodes."
    if spec.kind == EngineKind.SSH:
        return "The run there that ends, since the machine takes one at a time." if run.node is None else ""
    if spec.kind == EngineKind.RAY:
        if run.node is not None:
            return "Nodes of the Ray cluster that come up or get free: ray status shows what it lacks."
        return f"A run of {run.target!r} that ends, or more nodes: update(max_nodes=...)."
    if run.node is not None:
        return ""
    if spec.is_instance:
        return f"The run of {run.target!r} that ends: a ComputeInstance is one node."
    return describe_gpu_help(run.reason or "") or (
        f"A run of {run.target!r} that ends, or more nodes: update(max_nodes=...)."
    )


def _waits_for_somebody(run: Run, spec: Optional[ClusterSpec]) -> bool:
    """Does no other run's end let it begin, but only what somebody does to its target?"""
    return spec is not None and (spec.is_stopped or _is_too_large(run, spec))


def _is_too_large(run: Run, spec: ClusterSpec) -> bool:
    """Has its target been made smaller than it needs since it was submitted?"""
    return not spec.has_own_queue and run.spec.node_count > spec.max_nodes


def _spec_of(connection: Connection, run: Run) -> Optional[ClusterSpec]:
    if run.target == LOCAL:
        return None
    try:
        return fleet.get_cluster(connection, run.workspace, run.target).spec
    except ComputeTargetException:
        return None


def _count_before(connection: Connection, run: Run) -> int:
    """How many runs come before it."""
    queue = [
        row.id
        for row in sorted(runs.active_rows(connection), key=lambda one: one.turn)
        if row.status == RunStatus.QUEUED
        and row.key is None
        and row.target == run.target
        # This machine's places are for every workspace; a cluster belongs to one.
        and (run.target == LOCAL or row.workspace == run.workspace)
    ]
    return queue.index(run.id) if run.id in queue else 0


def _estimate_turn(connection: Connection, run: Run, spec: Optional[ClusterSpec], before: int, local_slots: int) -> str:
    """When its turn may come, by how long runs of its target took lately."""
    places, workspace = local_slots, None
    if run.target != LOCAL:
        if spec is None:
            return ""
        places, workspace = spec.max_nodes // run.spec.node_count, run.workspace
    found = _seconds(fleet.recent_durations(connection, workspace, run.target))
    wait_s = estimate_wait_s(found, before, places)
    if wait_s is None:
        return ""
    return f"By {last_few(len(found), 'run')} there, it may start in about {_shown(wait_s)}."


def _estimate_start(connection: Connection, run: Run, now: int) -> str:
    """When a run that is handed over may start, by how long those before it waited in all."""
    found = _seconds(fleet.recent_waits(connection, run.workspace, run.target))
    if not found or run.queued_at is None:
        return ""
    left_s = median(found) - (now - run.queued_at) / 1e6
    if left_s <= 0:
        whose = "its start" if len(found) == 1 else "their start"
        return f"{last_few(len(found), 'run').capitalize()} there had waited for {_shown(median(found))} by {whose}."
    return f"By {last_few(len(found), 'run')} there, it may start in about {_shown(left_s)}."


def _estimate_build(connection: Connection, run: Run) -> str:
    found = _seconds(fleet.recent_builds(connection, run.workspace))
    return f"{last_few(len(found), 'build').capitalize()} took about {_shown(median(found))}." if found else ""


def _seconds(times_us: Sequence[int]) -> Tuple[float, ...]:
    return tuple(one / 1e6 for one in times_us)


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
