"""Which waiting run goes where, which nodes come and which leave. Pure: the same view gives the same decision."""

from itertools import count, islice
from typing import Dict, List, NamedTuple, Optional, Tuple

from runyard.protocol.record import record

#: The target that needs no cluster; its name as a cluster here.
LOCAL = "local"


class Waiting(NamedTuple):
    """A run that is ready to start but for a node; a tuple, since each round makes one of every waiting run."""

    run_id: str
    workspace: str
    target: str


@record
class NodeView:
    """A node and what it does."""

    id: str
    workspace: str
    cluster: str
    run_id: Optional[str]
    #: Since when, UTC microseconds.
    since: int


@record
class ClusterView:
    """A cluster's bounds."""

    workspace: str
    name: str
    min_nodes: int
    max_nodes: int
    idle_s: int


@record
class Decision:
    """What to do, in this order: remove, add, assign, explain."""

    #: Ids of nodes that leave.
    removed: Tuple[str, ...]
    #: Nodes that come: (id, workspace, cluster).
    added: Tuple[Tuple[str, str, str], ...]
    #: (run id, node id); a local run's node id is ''.
    assigned: Tuple[Tuple[str, str], ...]
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
    """Runs get nodes in the order in which they were submitted; a cluster grows to its maximum on demand."""
    assigned: List[Tuple[str, str]] = []
    reasons: Dict[str, str] = {}
    local = [run for run in waiting if run.target == LOCAL]
    free_slots = max(0, local_slots - local_running)
    assigned.extend((run.run_id, "") for run in local[:free_slots])
    for run in local[free_slots:]:
        reasons[run.run_id] = f"Waits for one of this machine's {local_slots} places for local runs."
    removed: List[str] = []
    added: List[Tuple[str, str, str]] = []
    for cluster in clusters:
        queue = [run for run in waiting if run.target == cluster.name and run.workspace == cluster.workspace]
        here = [n for n in nodes if n.cluster == cluster.name and n.workspace == cluster.workspace]
        new = _new_nodes(cluster, here, len(queue))
        added.extend((node, cluster.workspace, cluster.name) for node in new)
        idle = [node.id for node in here if node.run_id is None]
        # A maximum that was lowered holds for what starts from now on.
        free = (idle + new)[: max(0, cluster.max_nodes - (len(here) - len(idle)))]
        assigned.extend((run.run_id, node) for run, node in zip(queue, free, strict=False))
        for run in queue[len(free) :]:
            reasons[run.run_id] = f"Waits for a node of {cluster.name!r}: all {cluster.max_nodes} are busy."
        removed.extend(_leaving_nodes(cluster, here, min(len(queue), len(free)), now))
    known = {(cluster.workspace, cluster.name) for cluster in clusters}
    for run in waiting:
        if run.target != LOCAL and (run.workspace, run.target) not in known:
            reasons[run.run_id] = f"Waits for compute target {run.target!r}, which does not exist; cancel the run."
    return Decision(tuple(removed), tuple(added), tuple(assigned), reasons)


def _new_nodes(cluster: ClusterView, here: List[NodeView], queued: int) -> List[str]:
    """Ids of the nodes that must come: for the minimum, and for runs that find no idle node."""
    busy = sum(1 for node in here if node.run_id is not None)
    wanted = max(cluster.min_nodes, min(cluster.max_nodes, busy + queued))
    taken = {node.id for node in here}
    names = (f"{cluster.workspace}/{cluster.name}/node-{number}" for number in count())
    return list(islice((name for name in names if name not in taken), max(0, wanted - len(here))))


def _leaving_nodes(cluster: ClusterView, here: List[NodeView], queued: int, now: int) -> List[str]:
    """Ids of idle nodes beyond the minimum that nobody needs: idle for long enough, or beyond the maximum."""
    idle = [node for node in here if node.run_id is None][queued:]
    excess = len(here) - cluster.max_nodes
    leaving = [
        node.id
        for place, node in enumerate(reversed(idle))
        if place < excess or now - node.since >= cluster.idle_s * 1_000_000
    ]
    return leaving[: max(0, len(here) - cluster.min_nodes)]
