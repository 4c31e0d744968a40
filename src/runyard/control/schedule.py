"""Which waiting run goes where, which nodes come and which leave. Pure: the same view gives the same decision."""

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

#: The target that needs no cluster; its name as a cluster here.
LOCAL = "local"


@dataclass(frozen=True)
class Waiting:
    """A run that is ready to start but for a node."""

    run_id: str
    workspace: str
    target: str


@dataclass(frozen=True)
class NodeView:
    """A node and what it does."""

    id: str
    workspace: str
    cluster: str
    run_id: Optional[str]
    #: Since when, UTC microseconds.
    since: int


@dataclass(frozen=True)
class ClusterView:
    """A cluster's bounds."""

    workspace: str
    name: str
    min_nodes: int
    max_nodes: int
    idle_s: int


@dataclass(frozen=True)
class Decision:
    """What to do, in this order: remove, add, assign, explain."""

    #: Ids of nodes that leave.
    removed: Tuple[str, ...]
    #: Nodes that come: (id, workspace, cluster).
    added: Tuple[Tuple[str, str, str], ...]
    #: (run id, node id); a local run's node id is ''.
    assigned: Tuple[Tuple[str, str], ...]
    #: Why each other run waits.
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
    for place, run in enumerate(local[free_slots:], 1):
        reasons[run.run_id] = "Waits for one of this machine's {} places; {} in the queue.".format(
            local_slots, _ordinal(place)
        )
    removed: List[str] = []
    added: List[Tuple[str, str, str]] = []
    for cluster in clusters:
        queue = [run for run in waiting if run.target == cluster.name and run.workspace == cluster.workspace]
        here = [n for n in nodes if n.cluster == cluster.name and n.workspace == cluster.workspace]
        _decide_cluster(cluster, queue, here, now, removed, added, assigned, reasons)
    known = {(cluster.workspace, cluster.name) for cluster in clusters}
    for run in waiting:
        if run.target != LOCAL and (run.workspace, run.target) not in known:
            reasons[run.run_id] = "Waits for compute target {!r}, which does not exist any more; cancel the run.".format(
                run.target
            )
    return Decision(tuple(removed), tuple(added), tuple(assigned), reasons)


def _decide_cluster(
    cluster: ClusterView,
    queue: List[Waiting],
    here: List[NodeView],
    now: int,
    removed: List[str],
    added: List[Tuple[str, str, str]],
    assigned: List[Tuple[str, str]],
    reasons: Dict[str, str],
) -> None:
    idle = [node.id for node in here if node.run_id is None]
    numbers = _free_numbers(cluster, here)
    wanted = max(cluster.min_nodes, min(cluster.max_nodes, len(here) - len(idle) + len(queue)))
    while len(here) + len(added_to(added, cluster)) < wanted:
        node_id = "{}/{}/node-{}".format(cluster.workspace, cluster.name, next(numbers))
        added.append((node_id, cluster.workspace, cluster.name))
        idle.append(node_id)
    for run in queue[: len(idle)]:
        assigned.append((run.run_id, idle.pop(0)))
    free_places = len(queue) - sum(1 for run in queue if any(run.run_id == one for one, _ in assigned))
    for place, run in enumerate(queue[len(queue) - free_places :], 1):
        reasons[run.run_id] = "Waits for a node of {!r}: all {} are busy; {} in the queue.".format(
            cluster.name, cluster.max_nodes, _ordinal(place)
        )
    surplus = len(here) - cluster.min_nodes
    old = [n for n in here if n.id in idle and now - n.since >= cluster.idle_s * 1_000_000 or len(here) > cluster.max_nodes]
    removed.extend(n.id for n in old[: max(0, surplus)] if n.run_id is None and n.id in idle)


def added_to(added: List[Tuple[str, str, str]], cluster: ClusterView) -> List[str]:
    """Ids of the nodes that come to that cluster."""
    return [node for node, workspace, name in added if (workspace, name) == (cluster.workspace, cluster.name)]


def _free_numbers(cluster: ClusterView, here: List[NodeView]) -> Iterator[int]:
    taken = {node.id.rsplit("-", 1)[-1] for node in here}
    return (number for number in range(len(here) + cluster.max_nodes + 1) if str(number) not in taken)


def _ordinal(place: int) -> str:
    return "next" if place == 1 else "{} more before it".format(place - 1)
