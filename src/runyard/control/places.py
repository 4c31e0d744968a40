"""What runs wait for while a decision is made: the nodes of a cluster, and the GPUs that a host's clusters share."""

from typing import Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from runyard.protocol.compute import ClusterSpec, find_vm_size
from runyard.protocol.record import record
from runyard.protocol.words import counted

#: How long others may take nodes that a run of several waits for, seconds; then they are kept for it.
PASSED_S = 600
#: What is said of GPUs that no end of a run brings.
_LACKING, _FOREIGN = "and this machine has", "which is no run here"
_UNASKED = "the GPUs of this machine could not be asked"


class Waiting(NamedTuple):
    """A run that is ready to start but for a node; a tuple, since each round makes one of every waiting run."""

    run_id: str
    workspace: str
    target: str
    #: How many nodes it needs, all at once.
    nodes: int = 1
    #: Since when it is ready, UTC microseconds.
    since: int = 0
    #: Its place among the others: the smallest is the first.
    turn: int = 0


@record
class ClusterView:
    """A cluster's bounds."""

    workspace: str
    name: str
    min_nodes: int
    max_nodes: int
    idle_s: int
    #: The engine's own queue orders the runs: each goes there as soon as it is ready.
    has_own_queue: bool = False
    #: How many of this host's GPUs a node has; None: its nodes are not this host's.
    gpus: Optional[int] = 0
    #: No run begins there, and idle nodes leave.
    is_stopped: bool = False


def view_cluster(workspace: str, spec: ClusterSpec) -> ClusterView:
    """The bounds of a cluster of that workspace, as it is set."""
    return ClusterView(
        workspace, spec.name, spec.lasting_nodes, spec.max_nodes,
        0 if spec.is_stopped else spec.idle_seconds_before_scaledown,
        spec.has_own_queue, gpus_of(spec), spec.is_stopped,
    )  # fmt: skip


def gpus_of(spec: ClusterSpec) -> Optional[int]:
    """How many GPUs of this host a node has; None: its nodes are not this host's."""
    size = find_vm_size(spec.vm_size)
    return None if spec.engine is not None else size.gpus if size is not None else 0


@record
class GpuView:
    """This host's GPUs, each by its number."""

    numbers: Tuple[int, ...] = ()
    #: Those that runs of clusters have, each for itself.
    given: FrozenSet[int] = frozenset()
    #: Those that local runs see, together.
    shared: FrozenSet[int] = frozenset()
    #: Those that something else uses, and what that is.
    #: As ((1, "process 4242"),).
    held: Tuple[Tuple[int, str], ...] = ()
    #: Why they cannot be asked now, so that none is given to a run; '': they can.
    trouble: str = ""


def view_gpus(users: Mapping[int, str], begun: Iterable[Tuple[bool, str]], trouble: str) -> GpuView:
    """The GPUs, of which ``users`` tells what uses each, '' for nothing, as the runs that have begun leave them.

    ``begun``: of each run that has some, whether it is a local one, and its GPUs as its row has them.
    """
    given: Set[int] = set()
    shared: Set[int] = set()
    for is_local, text in begun:
        (shared if is_local else given).update(map(int, text.replace(";", ",").split(",")))
    held = tuple((one, user) for one, user in users.items() if user and one not in given | shared)
    return GpuView(tuple(users), frozenset(given), frozenset(shared), held, trouble)


class Pool:
    """The GPUs of this host, taken by the runs that start."""

    def __init__(self, view: GpuView, now: int) -> None:
        self._view = view
        self._now = now
        self._first: Optional[Waiting] = None
        held = dict(view.held)
        taken = view.given | view.shared | held.keys()
        self._free = [number for number in view.numbers if number not in taken]
        #: What local runs that start now may see: none, where a cluster's run waits for some.
        self._open = [number for number in view.numbers if number not in view.given]

    @property
    def is_there(self) -> bool:
        """Has this host any GPU? Without, sizes that have some are emulated."""
        return bool(self._view.numbers)

    def find_obstacle(self, run: Waiting, needed: int) -> Optional[str]:
        """Why the run does not get so many GPUs now; None: it can have them."""
        first = self._first
        if needed and self._view.trouble:
            return f"Waits for {counted(needed, 'GPU')}; {_UNASKED}: {self._view.trouble}."
        if not self.is_there:
            return None
        if needed and first is not None and _is_overdue(first, self._now):
            return f"Waits behind {first.run_id!r}, which has long waited for GPUs."
        if needed <= len(self._free):
            return None
        can_ever = needed <= len(self._view.numbers) - len(self._view.held)
        if can_ever and (first is None or run.since < first.since):
            self._first = run
        if can_ever:
            # Else local runs, of which others come before the last has ended, would keep them for ever.
            self._open = []
        return self._why(needed)

    def take(self, run: Waiting, each: int) -> str:
        """GPUs for every node of the run, as a run's row has them: "0,1;2,3"."""
        parts = []
        for _ in range(run.nodes):
            mine, self._free = self._free[:each], self._free[each:]
            self._open = [number for number in self._open if number not in mine]
            parts.append(",".join(map(str, mine)))
        return ";".join(parts) if each else ""

    def share(self) -> str:
        """What a local run sees, as a run's row has it."""
        return ",".join(map(str, self._open))

    def _why(self, needed: int) -> str:
        present = len(self._view.numbers)
        wanted = counted(needed, "GPU")
        if needed > present:
            return f"Waits for {wanted}, {_LACKING} {present}: take a smaller size, or fewer nodes."
        others = "".join(f"; GPU {number} is used by {what}, {_FOREIGN}" for number, what in self._view.held)
        return f"Waits for {wanted} of this machine's {present} to be free{others}."


def can_tell_when(reason: str) -> bool:
    """Do runs before it tell when a run begins that waits for that? Not where it waits for no run to end."""
    return not any(one in reason for one in (_LACKING, _FOREIGN, _UNASKED))


def describe_gpu_help(reason: str) -> str:
    """What lets a run begin that waits for GPUs; '' where it waits for something else."""
    if _LACKING in reason:
        return "Cancel it, and submit it with a smaller vm_size or fewer nodes."
    if _UNASKED in reason:
        return (
            "An answer of nvidia-smi, which is asked again every half a minute. Where this machine has no GPU, take "
            "nvidia-smi off the server's PATH: sizes with GPUs are emulated then."
        )
    if _FOREIGN in reason:
        return "A run with GPUs that ends, or the end of what else uses them."
    # Of our own words: a cluster's name, which may be anything, stands behind a quote.
    return "A run with GPUs that ends." if " GPU" in reason else ""


class Room:
    """The nodes of one cluster, taken by the runs that start."""

    def __init__(self, cluster: ClusterView, free: int, pool: Pool, now: int) -> None:
        self._cluster = cluster
        self._free = free
        self._pool = pool
        self._now = now
        #: Of those that are passed, whatever their turns, the one that waits for longest.
        self._first: Optional[Waiting] = None
        self.starting: List[Waiting] = []
        self.reasons: Dict[str, str] = {}
        #: GPUs of those that start, where this host has any.
        self.gpus: Dict[str, str] = {}

    def offer(self, run: Waiting) -> None:
        """Let the run start, or say why it waits. They come in their turns."""
        cluster, first = self._cluster, self._first
        is_kept = first is not None and _is_overdue(first, self._now)
        if run.nodes > self._free or is_kept:
            self.reasons[run.run_id] = self._why(run, first if is_kept and run.nodes <= self._free else None)
            if run.nodes <= cluster.max_nodes and (first is None or run.since < first.since):
                self._first = run
            return
        if cluster.gpus is not None:
            obstacle = self._pool.find_obstacle(run, run.nodes * cluster.gpus)
            if obstacle is not None:
                self.reasons[run.run_id] = obstacle
                return
        if cluster.gpus is not None and self._pool.is_there:
            self.gpus[run.run_id] = self._pool.take(run, cluster.gpus)
        self.starting.append(run)
        self._free -= run.nodes

    def _why(self, run: Waiting, before: Optional[Waiting]) -> str:
        cluster = self._cluster
        if before is not None:
            return f"Waits behind {before.run_id!r}, which has long waited for {before.nodes} nodes at once."
        if run.nodes > cluster.max_nodes:
            return (
                f"Waits for {counted(run.nodes, 'node')} of {cluster.name!r}, which may have {cluster.max_nodes}: "
                "update(max_nodes=...)."
            )
        if run.nodes > 1:
            return f"Waits for {run.nodes} of the {cluster.max_nodes} nodes of {cluster.name!r} to be free at once."
        busy = "its one is" if cluster.max_nodes == 1 else f"all {cluster.max_nodes} are"
        return f"Waits for a node of {cluster.name!r}: {busy} busy."


def _is_overdue(run: Waiting, now: int) -> bool:
    return now - run.since >= PASSED_S * 1_000_000
