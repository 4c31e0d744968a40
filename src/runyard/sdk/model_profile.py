"""ModelProfile: what a service of these models takes, measured by one that lives only for that."""

import json
import sys
import time
from typing import Any, Dict, List, Optional, Sequence

from runyard.errors import UserErrorException, WebserviceException
from runyard.protocol.services import Access, ComputeType, Deployment
from runyard.sdk.deployment_configuration import LocalWebserviceDeploymentConfiguration
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.scoring_request import post
from runyard.sdk.webservice import Webservice
from runyard.sdk.workspace import Workspace

#: How often each sample is sent at least, and for how long at least, seconds.
ROUNDS, LEAST_S = 3, 2.0
#: What is recommended on top of the most that was seen.
HEADROOM = 1.25


class ModelProfile:
    """The measures of one profile; they are taken when ``Model.profile`` is called, and kept by this object alone."""

    def __init__(self, workspace: Workspace, name: str, **details: Any) -> None:
        self.workspace = workspace
        self.name = name
        self._details: Dict[str, Any] = details.get("_details") or {}
        if not self._details:
            raise WebserviceException(f"There is no profile {name!r}: profiles live as long as their object.")

    def wait_for_completion(self, show_output: bool = False) -> None:
        """Nothing is waited for."""
        if show_output:
            sys.stdout.write(f"Profile {self.name} Succeeded\n")

    def get_details(self) -> Dict[str, Any]:
        """Recommended and used CPU and memory, and latencies, in v1's keys."""
        return dict(self._details)

    def serialize(self) -> Dict[str, Any]:
        """As ``get_details``."""
        return self.get_details()

    def __repr__(self) -> str:
        return f"ModelProfile(workspace={self.workspace.name!r}, name={self.name})"


def profile(
    workspace: Workspace,
    name: str,
    models: Sequence[Model],
    inference_config: InferenceConfig,
    input_dataset: Any,
    cpu: Optional[float] = None,
    memory_in_gb: Optional[float] = None,
) -> ModelProfile:
    """Deploy, send each sample several times, one after the other, measure, delete.

    ``input_dataset``: a TabularDataset whose first column holds requests' bodies, or one body.
    """
    from runyard.sdk.deployment import check_models, deploy

    models, samples = check_models(models), _samples(input_dataset)
    config = LocalWebserviceDeploymentConfiguration(Deployment(cpu=cpu, memory_gb=memory_in_gb, kept={"profile": name}))
    service = deploy(workspace, f"profile-{int(time.time() * 1000) % 10**9}", models, inference_config, config)
    try:
        service.wait_for_deployment()
        took_s, failed, error = _sent(service, samples)
        service.update_deployment_state()
        used = service._record.statistics
    finally:
        service.delete()
    took_s.sort()
    details = {
        "name": name, "state": "Succeeded" if not failed else "Failed", "modelIds": [one.id for one in models],
        "requestedCpu": cpu, "requestedMemoryInGB": memory_in_gb,
        "recommendedCpu": round(max(0.1, used.cpu_cores_max * HEADROOM), 2),
        "recommendedMemoryInGB": round(max(0.1, used.memory_bytes / 1e9 * HEADROOM), 2),
        "maxUtilizedCpu": round(used.cpu_cores_max, 3), "maxUtilizedMemory": round(used.memory_bytes / 1e9, 3),
        "averageLatencyInMs": 1000 * sum(took_s) / len(took_s),
        "latencyPercentile50InMs": 1000 * took_s[len(took_s) // 2],
        "latencyPercentile90InMs": 1000 * took_s[int(0.9 * (len(took_s) - 1))], "maxLatencyInMs": 1000 * took_s[-1],
        "totalQueries": len(took_s), "successQueries": len(took_s) - failed,
        "measuredQueriesPerSecond": len(took_s) / sum(took_s), "computeType": ComputeType.LOCAL,
    }  # fmt: skip
    if failed:
        details["error"] = f"{failed} of {len(took_s)} requests failed; the first: {error}"
    return ModelProfile(workspace, name, _details=details)


def _samples(dataset: Any) -> List[bytes]:
    if isinstance(dataset, (str, bytes)):
        return [dataset.encode("utf-8") if isinstance(dataset, str) else dataset]
    if not hasattr(dataset, "to_pandas_dataframe"):
        raise UserErrorException(
            "A profile needs requests: input_dataset is a TabularDataset whose first column holds a request's body in "
            f"each row, not {dataset!r}."
        )
    frame = dataset.to_pandas_dataframe()
    if not len(frame.columns) or not len(frame):
        raise UserErrorException("The input_dataset has one column with a request's body in each row; it has none.")
    values = frame[frame.columns[0]].tolist()
    return [(one if isinstance(one, str) else json.dumps(one)).encode("utf-8") for one in values]


def _sent(service: Webservice, samples: List[bytes]) -> Any:
    """(seconds of each request, how many failed, what the first of those was answered)."""
    took_s: List[float] = []
    error, key = "", service.get_keys()[0] if service._record.access == Access.KEY else ""
    failed, until, rounds = 0, time.monotonic() + LEAST_S, 0
    while rounds < ROUNDS or time.monotonic() < until:
        rounds += 1
        for body in samples:
            began = time.monotonic()
            status, _, content = post(service.scoring_uri, body, key)
            took_s.append(time.monotonic() - began)
            if status != 200:
                error = error or f"{status} {content[:500].decode('utf-8', 'replace')}"
                failed += 1
    return took_s, failed, error
