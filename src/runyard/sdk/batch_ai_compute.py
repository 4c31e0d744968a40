"""BatchAiCompute: the cluster of 2018, which became AmlCompute; its names give one of those."""

from typing import Any, Optional

from runyard.protocol.compute import VmPriority
from runyard.sdk.aml_compute import AmlCompute, AmlComputeProvisioningConfiguration
from runyard.sdk.notices import say_once
from runyard.sdk.workspace import Workspace


class BatchAiCompute:
    """The AmlCompute of that name."""

    def __new__(cls, workspace: Workspace, name: str) -> Any:
        """ComputeTargetException if there is none."""
        _say()
        return AmlCompute(workspace, name)

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "",
        vm_priority: str = VmPriority.DEDICATED,
        autoscale_enabled: bool = False,
        cluster_min_nodes: Optional[int] = None,
        cluster_max_nodes: Optional[int] = None,
        **others: Any,
    ) -> AmlComputeProvisioningConfiguration:
        """Settings of an AmlCompute; it grows and shrinks whatever ``autoscale_enabled`` says."""
        _say()
        return AmlCompute.provisioning_configuration(
            vm_size, vm_priority, min_nodes=cluster_min_nodes or 0, max_nodes=cluster_max_nodes, **others
        )


def _say() -> None:
    say_once("Batch AI became AmlCompute, and its clusters are AmlCompute here: use that name.")
