"""AmlCompute: a cluster of this host's logical nodes, which come on demand and leave when idle."""

import sys
import time
from typing import Any, Dict, List, Optional

from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import DEFAULT_VM_SIZE, Cluster, ClusterChange, ClusterSpec, list_vm_sizes
from runyard.sdk.compute_target import ComputeTarget
from runyard.sdk.details import iso_time
from runyard.sdk.workspace import Workspace

#: v1's documented default where max_nodes is not given.
DEFAULT_MAX_NODES = 4
#: Between two looks at a cluster that is being waited for, seconds.
LOOK_S = 0.2


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


class AmlComputeStatus:
    """A cluster as it is now."""

    def __init__(self, cluster: Cluster) -> None:
        spec = cluster.spec
        running = sum(1 for node in cluster.nodes if node.run_id is not None)
        self.allocation_state = cluster.allocation_state
        self.provisioning_state = "Succeeded"
        self.current_node_count = cluster.current_node_count
        self.target_node_count = cluster.target_node_count
        self.vm_size = spec.vm_size.upper()
        self.vm_priority = "LowPriority" if spec.vm_priority == "lowpriority" else "Dedicated"
        self.errors: Optional[List[Any]] = None
        self.creation_time = iso_time(cluster.created_at)
        self.modified_time = iso_time(cluster.modified_at)
        self.scale_settings = ScaleSettings(spec.min_nodes, spec.max_nodes, spec.idle_seconds_before_scaledown)
        self.node_state_counts = {
            "preparingNodeCount": 0,
            "runningNodeCount": running,
            "idleNodeCount": cluster.current_node_count - running,
            "unusableNodeCount": 0,
            "leavingNodeCount": 0,
            "preemptedNodeCount": 0,
        }

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "currentNodeCount": self.current_node_count,
            "targetNodeCount": self.target_node_count,
            "nodeStateCounts": dict(self.node_state_counts),
            "allocationState": self.allocation_state,
            "creationTime": self.creation_time,
            "modifiedTime": self.modified_time,
            "errors": self.errors,
            "provisioningState": self.provisioning_state,
            "scaleSettings": self.scale_settings.serialize(),
            "vmPriority": self.vm_priority,
            "vmSize": self.vm_size,
        }


class AmlComputeProvisioningConfiguration:
    """A cluster as asked; kept until ``ComputeTarget.create``."""

    def __init__(self, **settings: Any) -> None:
        self.vm_size = settings["vm_size"] or DEFAULT_VM_SIZE
        self.vm_priority = settings["vm_priority"]
        self.min_nodes = settings["min_nodes"]
        self.max_nodes = DEFAULT_MAX_NODES if settings["max_nodes"] is None else settings["max_nodes"]
        self.idle_seconds_before_scaledown = settings["idle_seconds_before_scaledown"]
        self.description = settings["description"]
        self.tags = settings["tags"]

    def _create(self, workspace: Workspace, name: str) -> "AmlCompute":
        spec = ClusterSpec(
            name=name,
            vm_size=self.vm_size,
            vm_priority=self.vm_priority,
            min_nodes=_whole("min_nodes", self.min_nodes or 0),
            max_nodes=_whole("max_nodes", self.max_nodes),
            idle_seconds_before_scaledown=_whole("idle_seconds_before_scaledown", self.idle_seconds_before_scaledown),
            description=self.description or "",
            tags={str(key): str(value) for key, value in (self.tags or {}).items()},
        )
        try:
            cluster = workspace._call("create_cluster", spec)
        except UserErrorException as error:
            raise ComputeTargetException(error.message) from None
        for warning in cluster.warnings:
            print("Warning: " + warning, file=sys.stderr)
        return AmlCompute(workspace, name, _record=cluster)


class AmlCompute(ComputeTarget):
    """A cluster."""

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "",
        vm_priority: str = "dedicated",
        min_nodes: int = 0,
        max_nodes: Optional[int] = None,
        idle_seconds_before_scaledown: int = 1800,
        admin_username: Any = None,
        admin_user_password: Any = None,
        admin_user_ssh_key: Any = None,
        vnet_resourcegroup_name: Any = None,
        vnet_name: Any = None,
        subnet_name: Any = None,
        tags: Any = None,
        description: Optional[str] = None,
        remote_login_port_public_access: str = "NotSpecified",
        identity_type: Any = None,
        identity_id: Any = None,
        location: Any = None,
        **_: Any,
    ) -> AmlComputeProvisioningConfiguration:
        """Settings of a cluster. Network, login and identity settings mean nothing here and are accepted."""
        return AmlComputeProvisioningConfiguration(
            vm_size=vm_size,
            vm_priority=vm_priority,
            min_nodes=min_nodes,
            max_nodes=max_nodes,
            idle_seconds_before_scaledown=idle_seconds_before_scaledown,
            tags=tags,
            description=description,
        )

    @property
    def type(self) -> str:
        """v1's word for it."""
        return "AmlCompute"

    @property
    def provisioning_state(self) -> str:
        """A cluster of logical nodes is made at once."""
        return "Succeeded"

    @property
    def vm_size(self) -> str:
        """The size of its nodes."""
        return self._record.spec.vm_size

    @property
    def status(self) -> AmlComputeStatus:
        """The cluster when it was last looked at; ``get_status()`` looks again."""
        return AmlComputeStatus(self._record)

    @property
    def scale_settings(self) -> ScaleSettings:
        """How far it grows and how long its nodes idle."""
        return self.status.scale_settings

    @staticmethod
    def supported_vmsizes(workspace: Workspace, location: Optional[str] = None) -> List[Dict[str, Any]]:
        """The sizes of nodes that are known, in v1's keys."""
        return [
            {"name": one.name, "vCPUs": one.cpus, "gpus": one.gpus, "memoryGB": one.memory_gib}
            for one in list_vm_sizes()
        ]

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: Optional[int] = None,
        timeout_in_minutes: float = 25,
        is_delete_operation: bool = False,
    ) -> None:
        """Return once the cluster is made and has ``min_node_count`` nodes (default: its minimum)."""
        if is_delete_operation:
            return
        wanted = self._refresh().spec.min_nodes if min_node_count is None else min_node_count
        ends_at = time.monotonic() + timeout_in_minutes * 60
        if show_output:
            print("Creating\nSucceeded", flush=True)
        while self._refresh().current_node_count < wanted:
            if time.monotonic() > ends_at:
                raise ComputeTargetException(
                    f"Cluster {self._name!r} has {self._record.current_node_count} of {wanted} nodes "
                    f"after {timeout_in_minutes} minutes."
                )
            time.sleep(LOOK_S)
        if show_output:
            print(
                "AmlCompute wait for completion finished\n\nMinimum number of nodes requested have been provisioned",
                flush=True,
            )

    def get_status(self) -> AmlComputeStatus:
        """The cluster as it is now."""
        return AmlComputeStatus(self._refresh())

    def update(
        self,
        min_nodes: Optional[int] = None,
        max_nodes: Optional[int] = None,
        idle_seconds_before_scaledown: Optional[int] = None,
    ) -> None:
        """Change its bounds."""
        change = ClusterChange(min_nodes, max_nodes, idle_seconds_before_scaledown)
        try:
            self._record = self._workspace._call("change_cluster", change, name=self._name)
        except UserErrorException as error:
            raise ComputeTargetException(error.message) from None

    def list_nodes(self) -> List[Dict[str, Any]]:
        """Its nodes, and the run of each."""
        return [{"nodeId": node.id, "nodeState": node.state, "runId": node.run_id} for node in self._refresh().nodes]

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "id": self._name,
            "name": self._name,
            "type": self.type,
            "tags": self.tags,
            "provisioningState": self.provisioning_state,
            "properties": {"vmSize": self.vm_size, "scaleSettings": self.get_status().scale_settings.serialize()},
        }


def _whole(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ComputeTargetException(f"{name} is a whole number, not {value!r}.") from None
