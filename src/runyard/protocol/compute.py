"""Clusters and their nodes."""

from dataclasses import field, replace
from typing import Any, Dict, Optional, Tuple

from runyard.protocol.record import record
from runyard.protocol.runs import RunStatus
from runyard.protocol.vm_sizes import VmSize as VmSize
from runyard.protocol.vm_sizes import find_vm_size as find_vm_size
from runyard.protocol.wire import dumps

#: How a warning begins that is an error: the target is there, and none of its runs can ever start.
NO_RUN_STARTS = "No run can start"

#: The size of a cluster's nodes where none is named.
DEFAULT_VM_SIZE = "STANDARD_D2_V2"
#: Most nodes of a target, and of a run.
NODES_MAX = 1_000


class EngineKind:
    """Who carries out the runs of a compute target."""

    #: This host, in nodes that are slots of it.
    LOCAL = "local"
    #: A Slurm cluster that was attached.
    SLURM = "slurm"
    #: A machine that was attached, over SSH.
    SSH = "ssh"
    #: A Ray cluster that was attached, or that the server has started.
    RAY = "ray"


@record
class EngineFacts:
    """What holds for every target of a kind that is attached."""

    #: How many nodes its runs have at once, where nobody says.
    nodes: int
    #: One machine has one run at a time, and ``nodes`` is no setting of it.
    is_one_machine: bool = False
    #: Its own queue orders the runs: each goes there as soon as it is ready.
    has_own_queue: bool = False
    #: Which settings let us in, and so are ``EngineSpec.secrets``.
    secrets: Tuple[str, ...] = ()
    #: Which settings name a file of the user's with a private key, and the secret that its text is.
    key_files: Tuple[Tuple[str, str], ...] = ()


#: By the kind.
ENGINES: Dict[str, EngineFacts] = {
    # Slurm's own queue says how many nodes a run can have.
    EngineKind.SLURM: EngineFacts(NODES_MAX, has_own_queue=True),
    EngineKind.RAY: EngineFacts(4),
    EngineKind.SSH: EngineFacts(
        1,
        is_one_machine=True,
        secrets=("private_key", "private_key_passphrase", "password"),
        key_files=(("private_key_file", "private_key"),),
    ),
}


def facts_of(kind: str) -> EngineFacts:
    """Those of the kind; nothing in particular of this host, and of a kind that there is not."""
    return ENGINES.get(kind, EngineFacts(1))


class VmPriority:
    """v1's words for what becomes of a run whose machine is lost or taken away."""

    #: It has failed.
    DEDICATED = "dedicated"
    #: It starts again, some times.
    LOW = "lowpriority"
    ALL = (DEDICATED, LOW)


@record
class EngineSpec:
    """An engine beside this host, as it was attached."""

    #: An EngineKind.
    kind: str
    #: What the engine is asked with: names and texts of its own, as {"partition": "gpu"}.
    settings: Dict[str, str] = field(default_factory=dict)
    #: What lets us in, as {"private_key": "..."}: kept sealed, and never given back.
    secrets: Dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What its secrets are sealed for: they open for no other engine."""
        return dumps([self.kind, *(part for pair in sorted(self.settings.items()) for part in pair)])


@record
class ClusterSpec:
    """A cluster as asked; v1's provisioning configuration."""

    name: str
    vm_size: str = DEFAULT_VM_SIZE
    #: A VmPriority.
    vm_priority: str = VmPriority.DEDICATED
    min_nodes: int = 0
    max_nodes: int = 4
    idle_seconds_before_scaledown: int = 1800
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    #: None: this host.
    engine: Optional[EngineSpec] = None
    #: v1's ComputeInstance: one node that stays.
    is_instance: bool = False
    #: No run begins there until it is started again.
    is_stopped: bool = False

    @property
    def lasting_nodes(self) -> int:
        """How many nodes stay without a run: none of a target that is stopped."""
        return 0 if self.is_stopped else self.min_nodes

    @property
    def kind(self) -> str:
        """An EngineKind."""
        return EngineKind.LOCAL if self.engine is None else self.engine.kind

    @property
    def has_own_queue(self) -> bool:
        """Does the engine's own queue order the runs, and not this server's?"""
        return facts_of(self.kind).has_own_queue

    @property
    def is_one_node(self) -> bool:
        """Is there one node, whatever is asked for?"""
        return self.is_instance or facts_of(self.kind).is_one_machine


@record
class ClusterChange:
    """What of a cluster may change; None leaves a field as it is."""

    min_nodes: Optional[int] = None
    max_nodes: Optional[int] = None
    idle_seconds_before_scaledown: Optional[int] = None
    is_stopped: Optional[bool] = None


def changed_spec(spec: ClusterSpec, change: ClusterChange) -> ClusterSpec:
    """The settings after a change."""
    asked: Dict[str, Any] = {
        "min_nodes": change.min_nodes,
        "max_nodes": change.max_nodes,
        "idle_seconds_before_scaledown": change.idle_seconds_before_scaledown,
        "is_stopped": change.is_stopped,
    }
    return replace(spec, **{name: value for name, value in asked.items() if value is not None})


class NodeState:
    """What a node does."""

    IDLE = "idle"
    RUNNING = "running"
    #: It takes no further run, and goes when its run has ended ...
    LEAVING = "leaving"
    #: ... which is told to end now.
    PREEMPTED = "preempted"


@record
class Node:
    """A node of a cluster: a slot for one run at a time."""

    id: str
    #: A NodeState.
    state: str
    run_id: Optional[str]
    since: int
    #: The state of that run, a RunStatus: a node is told by what its run is.
    run_status: Optional[str] = None
    #: Where it prepares its run, or leaves, for longer than that should take: since when, in a sentence; '' elsewhere.
    stuck: str = ""


def why_stuck(node: Node, now: int, limit_us: int) -> str:
    """What is said of a node that prepares or leaves for longer than the limit, in microseconds; '': it gets on.

    One that is drained waits for its run, for however long that takes; one that is taken away does not.
    """
    has_left = node.state == NodeState.PREEMPTED or (node.state == NodeState.LEAVING and node.run_id is None)
    doing = "leaving" if has_left else "preparing"
    if now - node.since <= limit_us or not (has_left or is_preparing(node)):
        return ""
    run = f", with run {node.run_id} in {node.run_status}; see: runyard why {node.run_id}" if node.run_id else ""
    name = node.id.rpartition("/")[2]
    return f"{name} has been {doing} for {(now - node.since) // 60_000_000} minutes{run}"


def is_preparing(node: Node) -> bool:
    """Has it a run whose script does not run there yet?"""
    return node.state == NodeState.RUNNING and node.run_status in _PREPARING


#: States of a run which has its node, and whose script does not run there yet.
_PREPARING = (RunStatus.STARTING, RunStatus.PROVISIONING, RunStatus.PREPARING, RunStatus.QUEUED)


@record
class Cluster:
    """A cluster as stored, with what is seen of it now."""

    name: str
    workspace: str
    spec: ClusterSpec
    created_by: str
    created_at: int
    modified_at: int
    #: Steady, Resizing
    allocation_state: str = "Steady"
    current_node_count: int = 0
    target_node_count: int = 0
    nodes: Tuple[Node, ...] = ()
    waiting_runs: int = 0
    #: Ids of the runs that are there: those that have nodes, or have been handed to the engine's own queue.
    runs: Tuple[str, ...] = ()
    #: What this host lacks of the size, if anything.
    warnings: Tuple[str, ...] = ()

    @property
    def stuck(self) -> Tuple[str, ...]:
        """Of each node that does not get on."""
        return tuple(node.stuck for node in self.nodes if node.stuck)

    @property
    def errors(self) -> Tuple[str, ...]:
        """Those of the warnings that no run gets past."""
        return tuple(one for one in self.warnings if one.startswith(NO_RUN_STARTS))
