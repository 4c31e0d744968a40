"""Which waiting run goes where, which nodes come and which leave. Pure: the same view gives the same decision."""

from dataclasses import field
from itertools import count, islice
from statistics import median
from typing import Dict, List, Optional, Sequence, Set, Tuple

from runyard.control.places import ClusterView, GpuView, Pool, Room, Waiting
from runyard.protocol.record import record
from runyard.protocol.words import counted

#: How many runs go to an engine's own queue in one round, since each is a request of its own.
HANDED_OVER_MAX = 8

#: The target that needs no cluster; its name as a cluster here.
LOCAL = "local"


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
    #: This host's GPUs, "0,1;2,3" by node, of each that starts on it, where it has any; '': the run sees none.
    gpus: Dict[str, str] = field(default_factory=dict)


class _Scene:
    """One cluster while a decision is made."""

    def __init__(self, cluster: ClusterView, nodes: List[NodeView], pool: Pool, now: int) -> None:
        self.cluster = cluster
        here = [n for n in nodes if n.cluster == cluster.name and n.workspace == cluster.workspace]
        self.removed = [node.id for node in here if node.is_leaving and node.run_id is None]
        self.added: List[Tuple[str, str, str]] = []
        self.assigned: List[Tuple[str, Tuple[str, ...]]] = []
        self._here = [node for node in here if node.id not in self.removed]
        self._idle = [node.id for node in self._here if node.run_id is None]
        # A maximum that was lowered holds for what starts from now on.
        self.room = Room(cluster, cluster.max_nodes - (len(self._here) - len(self._idle)), pool, now)

    def offer(self, run: Waiting) -> None:
        """The run's turn has come."""
        if self.cluster.is_stopped:
            self.room.reasons[run.run_id] = f"Waits for {self.cluster.name!r}, which is stopped, to be started."
        elif not self.cluster.has_own_queue:
            self.room.offer(run)
        elif len(self.assigned) < HANDED_OVER_MAX:
            self.assigned.append((run.run_id, ()))
        else:
            self.room.reasons[run.run_id] = f"Waits to be handed to {self.cluster.name!r}."

    def settle(self, now: int) -> None:
        """All turns have come: which nodes come, which go, and who gets which."""
        cluster = self.cluster
        if cluster.has_own_queue:
            return
        needed = sum(run.nodes for run in self.room.starting)
        new = _new_nodes(cluster, self._here, needed, {*self.removed, *(node.id for node in self._here)})
        self.added = [(node, cluster.workspace, cluster.name) for node in new]
        free = iter(self._idle + new)
        self.assigned = [(run.run_id, tuple(islice(free, run.nodes))) for run in self.room.starting]
        self.removed = [*self.removed, *_leaving_nodes(cluster, self._here, needed, now)]


def decide(
    waiting: List[Waiting],
    nodes: List[NodeView],
    clusters: List[ClusterView],
    local_running: int,
    local_slots: int,
    now: int,
    gpus: GpuView = GpuView(),  # noqa: B008 - nothing changes it
) -> Decision:
    """Runs get nodes in their turn, and in the order given where that is the same; a cluster grows on demand.

    A run gets all of its nodes at once or none. While it waits for several, smaller ones behind it may start on what is
    free, for PASSED_S at the most: no run waits for ever, and no two hold nodes that the other needs.
    """
    waiting = sorted(waiting, key=_turn)
    pool = Pool(gpus, now)
    scenes = [_Scene(cluster, nodes, pool, now) for cluster in clusters]
    places = {(one.cluster.workspace, one.cluster.name): one for one in scenes}
    assigned: List[Tuple[str, Tuple[str, ...]]] = []
    reasons: Dict[str, str] = {}
    # All clusters at once, since they share this host's GPUs.
    for run in waiting:
        scene = places.get((run.workspace, run.target))
        if scene is not None:
            scene.offer(run)
        elif run.target != LOCAL:
            reasons[run.run_id] = f"Waits for compute target {run.target!r}, which does not exist; cancel the run."
    local = [run for run in waiting if run.target == LOCAL]
    free_slots = max(0, local_slots - local_running)
    assigned.extend((run.run_id, ()) for run in local[:free_slots])
    for run in local[free_slots:]:
        reasons[run.run_id] = f"Waits for one of this machine's {counted(local_slots, 'place')} for local runs."
    given = {run.run_id: pool.share() for run in local[:free_slots]} if pool.is_there else {}
    removed: List[str] = []
    added: List[Tuple[str, str, str]] = []
    for scene in scenes:
        scene.settle(now)
        removed.extend(scene.removed)
        added.extend(scene.added)
        assigned.extend(scene.assigned)
        reasons.update(scene.room.reasons)
        given.update(scene.room.gpus)
    return Decision(tuple(removed), tuple(added), tuple(assigned), reasons, given)


def estimate_wait_s(durations_s: Sequence[float], before: int, places: int) -> Optional[float]:
    """About how long a run waits with ``before`` others ahead of it and that many places; None without experience.

    Those that run now are half through on average; then each place takes one after the other.
    """
    if not durations_s:
        return None
    usual = median(durations_s)
    return usual / 2 + usual * (before // max(1, places))


def _turn(run: Waiting) -> int:
    return run.turn


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
