"""ComputeInstance: v1's machine of one's own, here one node of this host that is always there."""

from typing import Any, Dict, List, Optional

from runyard.protocol.compute import Cluster, ClusterChange, VmPriority
from runyard.sdk.aml_compute import OF_AZURES_MACHINES, AmlCompute, AmlComputeProvisioningConfiguration
from runyard.sdk.notices import say_kept_of
from runyard.sdk.times import iso_time
from runyard.sdk.workspace import Workspace


class ComputeInstanceStatus:
    """An instance as it is now."""

    def __init__(self, cluster: Cluster) -> None:
        self.state = "Stopped" if cluster.spec.is_stopped else "Running"
        self.vm_size = cluster.spec.vm_size.upper()
        self.creation_time = iso_time(cluster.created_at)
        self.modified_time = iso_time(cluster.modified_at)
        self.errors: Optional[List[Any]] = None

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "errors": self.errors,
            "creationTime": self.creation_time,
            "modifiedTime": self.modified_time,
            "state": self.state,
            "vmSize": self.vm_size,
        }


class ComputeInstanceProvisioningConfiguration(AmlComputeProvisioningConfiguration):
    """An instance as asked; kept until ``ComputeTarget.create``."""

    def _create(self, workspace: Workspace, name: str) -> "ComputeInstance":
        made = super()._create(workspace, name)
        return ComputeInstance(workspace, name, _record=made._record)


class ComputeInstance(AmlCompute):
    """A cluster of one node, which stays."""

    @staticmethod
    def provisioning_configuration(  # type: ignore[override]
        vm_size: str = "",
        ssh_public_access: bool = False,
        admin_user_ssh_public_key: Any = None,
        vnet_resourcegroup_name: Any = None,
        vnet_name: Any = None,
        subnet_name: Any = None,
        tags: Any = None,
        description: Optional[str] = None,
        assigned_user_object_id: Any = None,
        assigned_user_tenant_id: Any = None,
    ) -> ComputeInstanceProvisioningConfiguration:
        """Settings of an instance. Network, login and owner settings mean nothing here and are accepted."""
        azures = {
            "ssh_public_access": ssh_public_access or None,
            "admin_user_ssh_public_key": admin_user_ssh_public_key,
            "vnet_resourcegroup_name": vnet_resourcegroup_name,
            "vnet_name": vnet_name,
            "subnet_name": subnet_name,
            "assigned_user_object_id": assigned_user_object_id,
            "assigned_user_tenant_id": assigned_user_tenant_id,
        }
        say_kept_of(azures, OF_AZURES_MACHINES)
        return ComputeInstanceProvisioningConfiguration(
            vm_size=vm_size,
            vm_priority=VmPriority.DEDICATED,
            min_nodes=1,
            max_nodes=1,
            idle_seconds_before_scaledown=0,
            is_instance=True,
            tags=tags,
            description=description,
        )

    @property
    def type(self) -> str:
        """v1's word for it."""
        return "ComputeInstance"

    def start(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Let runs begin there again."""
        self._set_stopped(False)

    def stop(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Let no further run begin there; one that runs goes on to its end."""
        self._set_stopped(True)

    def restart(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Let runs begin there: each starts in processes of its own, so nothing else has to start anew."""
        self._set_stopped(False)

    def _set_stopped(self, is_stopped: bool) -> None:
        self._record = self._workspace._call("change_cluster", ClusterChange(is_stopped=is_stopped), name=self._name)

    def get_status(self) -> ComputeInstanceStatus:  # type: ignore[override]
        """The instance as it is now."""
        return ComputeInstanceStatus(self._refresh())

    def delete(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Delete it; ComputeTargetException while runs use it."""
        super().delete()

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        found = {"id": self._name, "name": self._name, "type": self.type, "tags": self.tags}
        return {**found, "provisioningState": self.provisioning_state, "properties": self.get_status().serialize()}
