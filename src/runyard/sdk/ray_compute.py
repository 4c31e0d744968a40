"""RayCompute: a Ray cluster that is there already, as a compute target."""

import json
from typing import Any, Dict, Optional

from runyard.protocol.compute import ENGINES, EngineKind, VmPriority
from runyard.sdk.attached_compute import AttachConfiguration, AttachedCompute
from runyard.sdk.workspace import Workspace

#: How many nodes the target's runs have at once, where nobody says more.
DEFAULT_MAX_NODES = ENGINES[EngineKind.RAY].nodes


class RayProvisioningConfiguration(AttachConfiguration):
    """A Ray that the server starts, as asked; kept until ``ComputeTarget.create``."""

    def _create(self, workspace: Workspace, name: str) -> Any:
        return self._attach(workspace, name)


class RayCompute(AttachedCompute):
    """A Ray cluster. The server's queue orders the runs; Ray places them, and its autoscaler brings nodes."""

    @staticmethod
    def provisioning_configuration(
        max_nodes: int = DEFAULT_MAX_NODES,
        vm_size: Optional[str] = None,
        cpus: Optional[float] = None,
        gpus: float = 0,
        resources: Optional[Dict[str, float]] = None,
        node_folder: Optional[str] = None,
    ) -> RayProvisioningConfiguration:
        """A Ray that the server starts on its own host for this target, keeps running, and ends with it.

        Its nodes share the host, as those of an AmlCompute do; the rest is as in ``attach_configuration``.
        """
        settings = {
            "address": "local",
            "vm_size": vm_size,
            "cpus": cpus,
            "gpus": gpus or None,
            "resources": json.dumps(resources) if resources else None,
            "node_folder": node_folder,
        }
        return RayProvisioningConfiguration(EngineKind.RAY, settings, max_nodes)

    @staticmethod
    def attach_configuration(
        address: str,
        max_nodes: int = DEFAULT_MAX_NODES,
        cpus: Optional[float] = None,
        gpus: float = 0,
        memory_gib: Optional[float] = None,
        resources: Optional[Dict[str, float]] = None,
        token_file: Optional[str] = None,
        node_folder: Optional[str] = None,
        vm_priority: str = VmPriority.DEDICATED,
        vm_size: Optional[str] = None,
    ) -> AttachConfiguration:
        """How to attach the cluster at ``address``, as "host:6379" or "ray://host:10001".

        A node of a run is given ``cpus``, ``gpus``, ``memory_gib`` and Ray's own ``resources``; where ``vm_size`` names
        one of Azure's sizes, its CPUs and GPUs, and otherwise one CPU. ``token_file`` lies on
        the server's machine and holds the cluster's token. With ``vm_priority="lowpriority"`` a run whose node is lost
        starts again, three times at the most. ``node_folder`` is where the nodes keep environments; variables in it
        are the node's.
        """
        settings: Dict[str, Any] = {
            "address": address,
            "vm_size": vm_size,
            "cpus": cpus,
            "gpus": gpus or None,
            "memory_gib": memory_gib,
            "resources": json.dumps(resources) if resources else None,
            "token_file": token_file,
            "node_folder": node_folder,
        }
        return AttachConfiguration(EngineKind.RAY, settings, max_nodes, vm_priority)

    def detach(self) -> None:
        """Forget it; one that was attached stays as it is, one that was created ends. ComputeTargetException while runs
        use it."""
        super().detach()
