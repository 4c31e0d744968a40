"""Clusters, their nodes, and the table of Azure VM sizes."""

from dataclasses import field, replace
from typing import Any, Dict, Optional, Tuple

from runyard.protocol.record import record
from runyard.protocol.wire import dumps

#: The size of a cluster's nodes where none is named.
DEFAULT_VM_SIZE = "STANDARD_D2_V2"


class EngineKind:
    """Who carries out the runs of a compute target."""

    #: This host, in nodes that are slots of it.
    LOCAL = "local"
    #: A Slurm cluster that was attached.
    SLURM = "slurm"
    #: A machine that was attached, over SSH.
    SSH = "ssh"
    #: A Ray cluster that was attached.
    RAY = "ray"


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
    vm_priority: str = "dedicated"
    min_nodes: int = 0
    max_nodes: int = 4
    idle_seconds_before_scaledown: int = 1800
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    #: None: this host.
    engine: Optional[EngineSpec] = None

    @property
    def kind(self) -> str:
        """An EngineKind."""
        return EngineKind.LOCAL if self.engine is None else self.engine.kind


@record
class ClusterChange:
    """What of a cluster may change; None leaves a field as it is."""

    min_nodes: Optional[int] = None
    max_nodes: Optional[int] = None
    idle_seconds_before_scaledown: Optional[int] = None


def changed_spec(spec: ClusterSpec, change: ClusterChange) -> ClusterSpec:
    """The settings after a change."""
    asked: Dict[str, Any] = {
        "min_nodes": change.min_nodes,
        "max_nodes": change.max_nodes,
        "idle_seconds_before_scaledown": change.idle_seconds_before_scaledown,
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
    """A node of a cluster: a slot for one run at a time on this host."""

    id: str
    #: A NodeState.
    state: str
    run_id: Optional[str]
    since: int


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
    #: What this host lacks of the size, if anything.
    warnings: Tuple[str, ...] = ()


@record
class VmSize:
    """What an Azure VM size offers. Source: the public tables of VM sizes."""

    name: str
    cpus: int
    memory_gib: float
    gpus: int = 0


def find_vm_size(name: str) -> Optional[VmSize]:
    """The size of that name in any case, with or without the 'Standard_' prefix; None if unknown."""
    key = name.upper()
    return _SIZES.get(key if key.startswith(("STANDARD_", "BASIC_")) else "STANDARD_" + key)


def list_vm_sizes() -> Tuple[VmSize, ...]:
    """Every size that is known, by name."""
    return tuple(_SIZES[name] for name in sorted(_SIZES))


def _table() -> Dict[str, VmSize]:
    rows = (
        ("A1_V2", 1, 2, 0), ("A2_V2", 2, 4, 0), ("A4_V2", 4, 8, 0), ("A8_V2", 8, 16, 0),
        ("D1", 1, 3.5, 0), ("D2", 2, 7, 0), ("D3", 4, 14, 0), ("D4", 8, 28, 0),
        ("D1_V2", 1, 3.5, 0), ("D2_V2", 2, 7, 0), ("D3_V2", 4, 14, 0), ("D4_V2", 8, 28, 0), ("D5_V2", 16, 56, 0),
        ("D11_V2", 2, 14, 0), ("D12_V2", 4, 28, 0), ("D13_V2", 8, 56, 0), ("D14_V2", 16, 112, 0),
        ("DS1_V2", 1, 3.5, 0), ("DS2_V2", 2, 7, 0), ("DS3_V2", 4, 14, 0), ("DS4_V2", 8, 28, 0), ("DS5_V2", 16, 56, 0),
        ("DS11_V2", 2, 14, 0), ("DS12_V2", 4, 28, 0), ("DS13_V2", 8, 56, 0), ("DS14_V2", 16, 112, 0),
        ("D2_V3", 2, 8, 0), ("D4_V3", 4, 16, 0), ("D8_V3", 8, 32, 0), ("D16_V3", 16, 64, 0), ("D32_V3", 32, 128, 0),
        ("D2S_V3", 2, 8, 0), ("D4S_V3", 4, 16, 0), ("D8S_V3", 8, 32, 0), ("D16S_V3", 16, 64, 0),
        ("D32S_V3", 32, 128, 0), ("D64S_V3", 64, 256, 0),
        ("E2S_V3", 2, 16, 0), ("E4S_V3", 4, 32, 0), ("E8S_V3", 8, 64, 0), ("E16S_V3", 16, 128, 0),
        ("F2S_V2", 2, 4, 0), ("F4S_V2", 4, 8, 0), ("F8S_V2", 8, 16, 0), ("F16S_V2", 16, 32, 0), ("F32S_V2", 32, 64, 0),
        ("H8", 8, 56, 0), ("H16", 16, 112, 0), ("HB60RS", 60, 228, 0),
        ("NC6", 6, 56, 1), ("NC12", 12, 112, 2), ("NC24", 24, 224, 4), ("NC24R", 24, 224, 4),
        ("NC6S_V2", 6, 112, 1), ("NC12S_V2", 12, 224, 2), ("NC24S_V2", 24, 448, 4), ("NC24RS_V2", 24, 448, 4),
        ("NC6S_V3", 6, 112, 1), ("NC12S_V3", 12, 224, 2), ("NC24S_V3", 24, 448, 4), ("NC24RS_V3", 24, 448, 4),
        ("NC4AS_T4_V3", 4, 28, 1), ("NC8AS_T4_V3", 8, 56, 1), ("NC16AS_T4_V3", 16, 110, 1),
        ("NC64AS_T4_V3", 64, 440, 4), ("NC24ADS_A100_V4", 24, 220, 1), ("NC48ADS_A100_V4", 48, 440, 2),
        ("NC96ADS_A100_V4", 96, 880, 4), ("ND6S", 6, 112, 1), ("ND12S", 12, 224, 2), ("ND24S", 24, 448, 4),
        ("ND24RS", 24, 448, 4), ("ND40RS_V2", 40, 672, 8), ("ND96ASR_V4", 96, 900, 8),
        ("NV6", 6, 56, 1), ("NV12", 12, 112, 2), ("NV24", 24, 224, 4),
    )  # fmt: skip
    return {"STANDARD_" + row[0]: VmSize("STANDARD_" + row[0], row[1], float(row[2]), row[3]) for row in rows}


_SIZES = _table()
