"""The nodes of a test's Ray cluster, as Ray's autoscaler asks for them; imported inside Ray, never by a test."""

import subprocess
from pathlib import Path
from typing import Any

from ray.autoscaler.batching_node_provider import BatchingNodeProvider, NodeData, ScaleRequest
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, STATUS_UP_TO_DATE
from ray_nodes import Site, living_nodes, remove_node, start_node


class NamespaceProvider(BatchingNodeProvider):
    """Starts and removes nodes that are network namespaces.

    It remembers nothing but its children: which nodes there are stands in the cluster's records, where the test's
    fixture has written those that were there before the autoscaler.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        BatchingNodeProvider.__init__(self, provider_config, cluster_name)
        self.site = Site.load(provider_config["site"])
        self.starters: list[subprocess.Popen[bytes]] = []

    def get_node_data(self) -> dict[str, NodeData]:
        """The head and each node that lives, by its name."""
        self.starters = [starter for starter in self.starters if starter.poll() is None]
        head = NodeData(kind=NODE_KIND_HEAD, type="head", ip=self.site.head, status=STATUS_UP_TO_DATE)
        workers = {
            node.name: NodeData(kind=NODE_KIND_WORKER, type=node.kind, ip=node.address, status=STATUS_UP_TO_DATE)
            for node in living_nodes(self.site)
        }
        return {"head": head, **workers}

    def submit_scale_request(self, scale_request: ScaleRequest) -> None:
        """Remove what is named, and start what is missing of each kind."""
        nodes = {node.name: node for node in living_nodes(self.site)}
        for name in scale_request.workers_to_delete & nodes.keys():
            self._note(f"remove {name}")
            remove_node(self.site, nodes.pop(name))
        for kind, wanted in scale_request.desired_num_workers.items():
            for _ in range(wanted - sum(node.kind == kind for node in nodes.values())):
                self._start(kind)

    def _start(self, kind: str) -> None:
        node, starter = start_node(self.site, kind)
        self.starters.append(starter)
        self._note(f"start {kind} {node.name}")

    def _note(self, line: str) -> None:
        with Path(self.site.folder, "provider.log").open("a") as notes:
            notes.write(line + "\n")
