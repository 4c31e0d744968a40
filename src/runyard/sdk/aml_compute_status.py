"""What get_status() says of a compute target: v1's AmlComputeStatus, for clusters and for what is attached."""

from typing import Any, Dict, List, Optional

from runyard.protocol.compute import Cluster, Node, NodeState, VmPriority, is_preparing
from runyard.protocol.runs import RunStatus
from runyard.sdk.times import iso_time


class ScaleSettings:
    """How far a cluster grows and how long its nodes idle."""

    def __init__(self, min_node_count: int, max_node_count: int, idle_seconds: int) -> None:
        self.minimum_node_count = min_node_count
        self.maximum_node_count = max_node_count
        self.idle_seconds_before_scaledown = idle_seconds

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "minNodeCount": self.minimum_node_count,
            "maxNodeCount": self.maximum_node_count,
            "nodeIdleTimeBeforeScaleDown": f"PT{self.idle_seconds_before_scaledown}S",
        }


class NodeStateCounts(Dict[str, int]):
    """How many nodes are in each state, by v1's keys: ``counts["idleNodeCount"]`` is ``counts.idle_node_count``."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__({state + "NodeCount": 0 for state in _STATES})
        for node in cluster.nodes:
            self[state_of(node) + "NodeCount"] += 1

    def __getattr__(self, name: str) -> int:
        first, *others = name.split("_")
        try:
            return self[first + "".join(one.capitalize() for one in others)]
        except KeyError:
            raise AttributeError("the counts have no {!r}; they have {}".format(name, ", ".join(self))) from None

    def serialize(self) -> Dict[str, int]:
        """Plain data in v1's keys."""
        return dict(self)


_STATES = ("preparing", "running", "idle", "unusable", "leaving", "preempted")


def state_of(node: Node) -> str:
    """v1's word for what a node does, by its own state and by that of its run."""
    if node.state in (NodeState.PREEMPTED, NodeState.LEAVING):
        return node.state
    if node.run_id is None:
        return "idle"
    if node.run_status == RunStatus.NOT_RESPONDING:
        return "unusable"
    return "preparing" if is_preparing(node) else "running"


#: As v1 shows what it is asked by other words.
_SHOWN_PRIORITIES = {VmPriority.DEDICATED: "Dedicated", VmPriority.LOW: "LowPriority"}


class AmlComputeStatus:
    """A cluster as it is now."""

    def __init__(self, cluster: Cluster) -> None:
        spec = cluster.spec
        self.allocation_state = cluster.allocation_state
        self.provisioning_state = "Succeeded"
        self.current_node_count = cluster.current_node_count
        self.target_node_count = cluster.target_node_count
        size = spec.vm_size if spec.engine is None else spec.engine.settings.get("vm_size")
        #: None: the machines of what is attached are as they are.
        self.vm_size = None if size is None else size.upper()
        self.vm_priority = _SHOWN_PRIORITIES[spec.vm_priority]
        #: None where there is none.
        self.errors: Optional[List[Dict[str, Any]]] = _errors(cluster) or None
        self.creation_time = iso_time(cluster.created_at)
        self.modified_time = iso_time(cluster.modified_at)
        self.scale_settings = ScaleSettings(spec.min_nodes, spec.max_nodes, spec.idle_seconds_before_scaledown)
        self.node_state_counts = NodeStateCounts(cluster)

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "currentNodeCount": self.current_node_count,
            "targetNodeCount": self.target_node_count,
            "nodeStateCounts": self.node_state_counts.serialize(),
            "allocationState": self.allocation_state,
            "creationTime": self.creation_time,
            "modifiedTime": self.modified_time,
            "errors": self.errors,
            "provisioningState": self.provisioning_state,
            "scaleSettings": self.scale_settings.serialize(),
            "vmPriority": self.vm_priority,
            "vmSize": self.vm_size,
        }


def _errors(cluster: Cluster) -> List[Dict[str, Any]]:
    """What keeps runs from starting, and nodes that do not get on or are not heard of, in v1's form of errors."""
    found = [("NoRunCanStart", sentence) for sentence in cluster.errors]
    found += [("NodeStuck", sentence) for sentence in cluster.stuck]
    found += [
        ("NodeNotResponding", f"{node.id.rpartition('/')[2]} is not heard of; its run is {node.run_id}.")
        for node in cluster.nodes
        if state_of(node) == "unusable"
    ]
    return [{"error": {"code": code, "message": message}} for code, message in found]


class AttachedStatus(str):
    """What is attached is there: the text ``Succeeded``, as v1 had it, with AmlComputeStatus's attributes beside it.

    So code that was written for either kind of target reads it.
    """

    def __new__(cls, cluster: Cluster) -> "AttachedStatus":
        """Of a target as it is now."""
        status = AmlComputeStatus(cluster)
        found = super().__new__(cls, status.provisioning_state)
        found._status = status
        return found

    _status: AmlComputeStatus

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_status"], name)

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return self._status.serialize()
