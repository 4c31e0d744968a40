"""SlurmCompute: a Slurm cluster that is there already, as a compute target."""

from typing import Any, Optional

from runyard.protocol.compute import ENGINES, EngineKind, VmPriority
from runyard.sdk.attached_compute import AttachConfiguration, AttachedCompute


class SlurmCompute(AttachedCompute):
    """An attached Slurm cluster. Its own queue orders the runs; each is a job of the server's user there."""

    @staticmethod
    def attach_configuration(
        partition: Optional[str] = None,
        account: Optional[str] = None,
        qos: Optional[str] = None,
        node_folder: Optional[str] = None,
        vm_priority: str = VmPriority.DEDICATED,
        **options: Any,
    ) -> AttachConfiguration:
        """How to attach the cluster that the server's ``sbatch`` reaches.

        ``options`` are sbatch's own, as ``gres="gpu:1"`` or ``cpus_per_task=4``; they hold for every run of the target.
        With ``vm_priority="lowpriority"`` a run that is preempted, or whose node fails, starts again, three times at
        the most. ``node_folder`` is where the nodes keep environments; variables in it are the node's.
        """
        asked = {"partition": partition, "account": account, "qos": qos, "node_folder": node_folder}
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return AttachConfiguration(EngineKind.SLURM, {**asked, **named}, ENGINES[EngineKind.SLURM].nodes, vm_priority)
