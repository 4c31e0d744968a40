"""Which waiting run goes where, which nodes come and which leave. Pure: the same view gives the same decision."""

from itertools import count, islice
from statistics import median
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from runyard.protocol.record import record

#: How long others may take nodes that a run of several waits for, seconds; then they are kept for it.
PASSED_S = 600

#: How many runs go to an engine's own queue in one round, since each is a request of its own.
HANDED_OVER_MAX = 8

#: The target that needs no cluster; its name as a cluster here.
LOCAL = "local"


class Waiting(NamedTuple):
    """A run that is ready to start but for a node; a tuple, since each round makes one of every waiting run."""

    run_id: str
    workspace: str
    target: str
    #: How many nodes it needs, all at once.
    nodes: int = 1
    #: Since when it waits for what it waits for, UTC microseconds.
    since: int = 0
    #: Its place among the others: the smallest is the first.
    turn: int = 0


@record
class NodeView:
    """A node and what it does."""

    id: str
    workspace: str
    cluster: str
    run_id: Optional[str]
    #: Since when, UTC microseconds.
    since: int
    #: It takes no further run.
    is_leaving: bool = False


@record
class ClusterView:
    """A cluster's bounds."""

    workspace: str
    name: str
    min_nodes: int
    max_nodes: int
    idle_s: int
    #: The engine's own queue orders the runs: each goes there as soon as it is ready.
    is_ordered_elsewhere: bool = False


@record
class Decision:
    """What to do, in this order: remove, add, assign, explain."""

    #: Ids of nodes that leave.
    removed: Tuple[str, ...]
    #: Nodes that come: (id, workspace, cluster).
    added: Tuple[Tuple[str, str, str], ...]
    #: (run id, its nodes); a local run has none of a cluster's.
    assigned: Tuple[Tuple[str, Tuple[str, ...]], ...]
    #: Why each other run waits. Says nothing that changes with every run that starts: each change is a row written.
    reasons: Dict[str, str]


def decide(
    waiting: List[Waiting],
    nodes: List[NodeView],
    clusters: List[ClusterView],
    local_running: int,
    local_slots: int,
    now: int,
) -> Decision:
    """Runs get nodes in their turn, and in the order given where that is the same; a cluster grows on demand.

    A run gets all of its nodes at once or none. While it waits for several, smaller ones behind it may start on what is
    free, for PASSED_S at the most: no run waits for ever, and no two hold nodes that the other needs.
    """
    waiting = sorted(waiting, key=_turn)
    assigned: List[Tuple[str, Tuple[str, ...]]] = []
    reasons: Dict[str, str] = {}
    local = [run for run in waiting if run.target == LOCAL]
    free_slots = max(0, local_slots - local_running)
    assigned.extend((run.run_id, ()) for run in local[:free_slots])
    for run in local[free_slots:]:
        reasons[run.run_id] = f"Waits for one of this machine's {local_slots} places for local runs."
    removed: List[str] = []
    added: List[Tuple[str, str, str]] = []
    for cluster in clusters:
        queue = [run for run in waiting if run.target == cluster.name and run.workspace == cluster.workspace]
        if cluster.is_ordered_elsewhere:
            assigned.extend((run.run_id, ()) for run in queue[:HANDED_OVER_MAX])
            reasons.update((run.run_id, f"Waits to be handed to {cluster.name!r}.") for run in queue[HANDED_OVER_MAX:])
            continue
        here = [n for n in nodes if n.cluster == cluster.name and n.workspace == cluster.workspace]
        gone = [node.id for node in here if node.is_leaving and node.run_id is None]
        removed.extend(gone)
        here = [node for node in here if node.id not in gone]
        idle = [node.id for node in here if node.run_id is None]
        # A maximum that was lowered holds for what starts from now on.
        starting, why = _start(cluster, queue, cluster.max_nodes - (len(here) - len(idle)), now)
        needed = sum(run.nodes for run in starting)
        new = _new_nodes(cluster, here, needed, {*gone, *(node.id for node in here)})
        added.extend((node, cluster.workspace, cluster.name) for node in new)
        free = iter(idle + new)
        assigned.extend((run.run_id, tuple(islice(free, run.nodes))) for run in starting)
        reasons.update(why)
        removed.extend(_leaving_nodes(cluster, here, needed, now))
    known = {(cluster.workspace, cluster.name) for cluster in clusters}
    for run in waiting:
        if run.target != LOCAL and (run.workspace, run.target) not in known:
            reasons[run.run_id] = f"Waits for compute target {run.target!r}, which does not exist; cancel the run."
    return Decision(tuple(removed), tuple(added), tuple(assigned), reasons)


def estimate_wait_s(durations_s: Sequence[float], before: int, places: int) -> Optional[float]:
    """About how long a run waits with ``before`` others ahead of it and that many places; None without experience.

    Those that run now are half through on average; then each place takes one after the other.
    """
    if not durations_s:
        return None
    usual = median(durations_s)
    return usual / 2 + usual * (before // max(1, places))


def _start(cluster: ClusterView, queue: List[Waiting], free: int, now: int) -> Tuple[List[Waiting], Dict[str, str]]:
    """Which runs of the queue start on ``free`` nodes, and why each other one waits."""
    starting: List[Waiting] = []
    reasons: Dict[str, str] = {}
    # Of those that are passed, whatever their turns, the one that waits for longest.
    first: Optional[Waiting] = None
    for run in queue:
        is_kept = first is not None and now - first.since >= PASSED_S * 1_000_000
        if run.nodes <= free and not is_kept:
            starting.append(run)
            free -= run.nodes
            continue
        reasons[run.run_id] = _why(cluster, run, first if is_kept and run.nodes <= free else None)
        if run.nodes <= cluster.max_nodes and (first is None or run.since < first.since):
            first = run
    return starting, reasons


def _turn(run: Waiting) -> int:
    return run.turn


def _why(cluster: ClusterView, run: Waiting, before: Optional[Waiting]) -> str:
    if before is not None:
        return f"Waits behind {before.run_id!r}, which has long waited for {before.nodes} nodes at once."
    if run.nodes > cluster.max_nodes:
        return (
            f"Waits for {run.nodes} nodes of {cluster.name!r}, which may have {cluster.max_nodes}: "
            "update(max_nodes=...)."
        )
    if run.nodes > 1:
        return f"Waits for {run.nodes} of the {cluster.max_nodes} nodes of {cluster.name!r} to be free at once."
    return f"Waits for a node of {cluster.name!r}: all {cluster.max_nodes} are busy."


def _new_nodes(cluster: ClusterView, here: List[NodeView], needed: int, taken: Set[str]) -> List[str]:
    """Ids, other than ``taken``, of the nodes that must come: for the minimum, and for runs that find no idle node."""
    busy = sum(1 for node in here if node.run_id is not None)
    wanted = max(cluster.min_nodes, busy + needed)
    names = (f"{cluster.workspace}/{cluster.name}/node-{number}" for number in count())
    return list(islice((name for name in names if name not in taken), max(0, wanted - len(here))))


def _leaving_nodes(cluster: ClusterView, here: List[NodeView], needed: int, now: int) -> List[str]:
    """Ids of idle nodes beyond the minimum that nobody needs: idle for long enough, or beyond the maximum."""
    idle = [node for node in here if node.run_id is None][needed:]
    excess = len(here) - cluster.max_nodes
    leaving = [
        node.id
        for place, node in enumerate(reversed(idle))
        if place < excess or now - node.since >= cluster.idle_s * 1_000_000
    ]
    return leaving[: max(0, len(here) - cluster.min_nodes)]
