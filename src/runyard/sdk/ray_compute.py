"""RayCompute: a Ray cluster that is there already, as a compute target."""

import json
from typing import Any, Dict, Optional

from runyard.protocol.compute import EngineKind
from runyard.sdk.attached_compute import AttachConfiguration, AttachedCompute

#: How many nodes the target's runs have at once, where nobody says more.
DEFAULT_MAX_NODES = 4


class RayCompute(AttachedCompute):
    """An attached Ray cluster. The server's queue orders the runs; Ray places them, and its autoscaler brings nodes."""

    @staticmethod
    def attach_configuration(
        address: str,
        max_nodes: int = DEFAULT_MAX_NODES,
        cpus: float = 1,
        gpus: float = 0,
        memory_gib: Optional[float] = None,
        resources: Optional[Dict[str, float]] = None,
        token_file: Optional[str] = None,
        node_folder: Optional[str] = None,
        vm_priority: str = "dedicated",
    ) -> AttachConfiguration:
        """How to attach the cluster at ``address``, as "host:6379" or "ray://host:10001".

        A node of a run is given ``cpus``, ``gpus``, ``memory_gib`` and Ray's own ``resources``. ``token_file`` lies on
        the server's machine and holds the cluster's token. With ``vm_priority="lowpriority"`` a run whose node is lost
        starts again, three times at the most. ``node_folder`` is where the nodes keep environments; variables in it
        are the node's.
        """
        settings: Dict[str, Any] = {
            "address": address,
            "cpus": cpus,
            "gpus": gpus or None,
            "memory_gib": memory_gib,
            "resources": json.dumps(resources) if resources else None,
            "token_file": token_file,
            "node_folder": node_folder,
        }
        return AttachConfiguration(EngineKind.RAY, settings, max_nodes, vm_priority)
