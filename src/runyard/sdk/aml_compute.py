"""AmlCompute: a cluster of this host's logical nodes, which come on demand and leave when idle."""

import sys
import time
from typing import Any, Dict, List, NoReturn, Optional

from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import DEFAULT_VM_SIZE, ClusterSpec, VmPriority
from runyard.protocol.vm_sizes import list_vm_sizes
from runyard.protocol.words import counted
from runyard.sdk.aml_compute_status import AmlComputeStatus, ScaleSettings
from runyard.sdk.compute_target import ComputeTarget, checked_whole
from runyard.sdk.notices import say_kept, say_kept_of, say_once
from runyard.sdk.workspace import Workspace

#: v1's documented default where max_nodes is not given.
DEFAULT_MAX_NODES = 4
#: v1's default time after which an idle node leaves, seconds.
DEFAULT_IDLE_S = 1800
#: Why settings of Azure's machines change nothing.
OF_AZURES_MACHINES = "nodes are the server's own machine, with its network and its accounts"
#: Between two looks at a cluster that is being waited for, seconds.
LOOK_S = 0.2


class AmlComputeProvisioningConfiguration:
    """A cluster as asked; kept until ``ComputeTarget.create``."""

    def __init__(self, **settings: Any) -> None:
        self.vm_size = settings["vm_size"] or DEFAULT_VM_SIZE
        self.vm_priority = settings["vm_priority"]
        self.min_nodes = settings["min_nodes"]
        self.max_nodes = DEFAULT_MAX_NODES if settings["max_nodes"] is None else settings["max_nodes"]
        idle_s = settings["idle_seconds_before_scaledown"]
        # None was its default before there was one.
        self.idle_seconds_before_scaledown = DEFAULT_IDLE_S if idle_s is None else idle_s
        self.is_instance = bool(settings.get("is_instance"))
        self.description = settings["description"]
        self.tags = settings["tags"]

    def _create(self, workspace: Workspace, name: str) -> "AmlCompute":
        spec = ClusterSpec(
            name=name,
            vm_size=self.vm_size,
            vm_priority=_priority(self.vm_priority),
            min_nodes=checked_whole("min_nodes", self.min_nodes or 0),
            max_nodes=checked_whole("max_nodes", self.max_nodes),
            idle_seconds_before_scaledown=checked_whole(
                "idle_seconds_before_scaledown", self.idle_seconds_before_scaledown
            ),
            description=self.description or "",
            tags=_tags(self.tags),
            is_instance=self.is_instance,
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
        vm_priority: str = VmPriority.DEDICATED,
        min_nodes: int = 0,
        max_nodes: Optional[int] = None,
        idle_seconds_before_scaledown: Optional[int] = DEFAULT_IDLE_S,
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
        enable_node_public_ip: bool = True,
        autoscale_enabled: bool = True,
    ) -> AmlComputeProvisioningConfiguration:
        """Settings of a cluster. Network and login settings mean nothing here and are accepted; so is an identity."""
        azures = {
            "admin_username": admin_username,
            "admin_user_password": admin_user_password,
            "admin_user_ssh_key": admin_user_ssh_key,
            "vnet_resourcegroup_name": vnet_resourcegroup_name,
            "vnet_name": vnet_name,
            "subnet_name": subnet_name,
            "location": location,
        }
        say_kept_of(azures, OF_AZURES_MACHINES)
        if not autoscale_enabled:
            say_kept(["autoscale_enabled"], "a cluster grows to max_nodes and shrinks to min_nodes")
        if identity_type is not None:
            say_once(f"identity_type {identity_type!r} is not used: {_NO_IDENTITY}")
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

    def wait_for_completion(  # type: ignore[override]
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
                    f"Cluster {self._name!r} has {self._record.current_node_count} of {counted(wanted, 'node')} "
                    f"after {timeout_in_minutes} min."
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

    def get(self) -> "AmlCompute":
        """The cluster, looked at again."""
        self._refresh()
        return self

    def detach(self) -> None:
        """ComputeTargetException: what was made here is deleted."""
        raise ComputeTargetException(f"{self._name!r} was not attached but made here; delete() takes it away.")

    def add_identity(self, identity_type: str, identity_id: Any = None) -> NoReturn:
        """ComputeTargetException: nodes here have no identity of Azure's."""
        raise ComputeTargetException(f"{self._name!r} takes no identity: {_NO_IDENTITY}")

    def remove_identity(self, identity_id: Any = None) -> NoReturn:
        """ComputeTargetException: nodes here have no identity of Azure's."""
        raise ComputeTargetException(f"{self._name!r} has no identity: {_NO_IDENTITY}")

    @staticmethod
    def list_usages(workspace: Workspace, show_all: bool = False, location: Optional[str] = None) -> List[Any]:
        """Each cluster's nodes and how many it may have, in v1's keys; idle clusters too with ``show_all``."""
        return [
            {
                "id": one.name,
                "type": "Microsoft.MachineLearningServices/workspaces/computes/usages",
                "unit": "Count",
                "currentValue": one.current_node_count,
                "limit": one.spec.max_nodes,
                "name": {"value": one.name, "localizedValue": f"Nodes of {one.name}"},
            }
            for one in workspace._call("list_clusters")
            if one.spec.engine is None and (show_all or one.nodes)
        ]

    @staticmethod
    def list_quotas(workspace: Workspace, location: Optional[str] = None) -> List[Any]:
        """None: there are no quotas here; a cluster's ``max_nodes`` bounds it."""
        return []

    @staticmethod
    def update_quotas(
        workspace: Workspace, vm_family: Any, limit: Optional[int] = None, location: Optional[str] = None
    ) -> NoReturn:
        """ComputeTargetException: there are no quotas."""
        raise ComputeTargetException(
            "There are no quotas here; a cluster's max_nodes bounds it: update(max_nodes=...)."
        )

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


#: Why an identity is of no use, and what is.
_NO_IDENTITY = "nodes here have none of Azure's. Storage is reached by what its datastore was registered with."


def _priority(asked: Any) -> Any:
    """As it is asked for; ``get_status()`` shows it in other letters, and that may be where it comes from."""
    shown = {one.lower(): one for one in VmPriority.ALL}
    return shown.get(asked.lower(), asked) if isinstance(asked, str) else asked


def _tags(asked: Any) -> Dict[str, str]:
    if asked is not None and not isinstance(asked, dict):
        raise ComputeTargetException(f"tags is a dict of names and values, not {asked!r}.")
    return {str(key): str(value) for key, value in (asked or {}).items()}
