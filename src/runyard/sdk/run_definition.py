"""A run's definition in v1's keys, as get_details() shows it: what was asked, by the sections of a RunConfiguration."""

from typing import Any, Dict, Optional

from runyard.protocol.distributed import Distribution, DistributionKind, framework_of
from runyard.protocol.runs import RunSpec


def definition_of(spec: RunSpec) -> Dict[str, Any]:
    """What was asked for."""
    environment = spec.environment
    framework, communicator = framework_of(spec.distribution)
    return {
        "script": spec.script,
        "command": " ".join(spec.command),
        "useAbsolutePath": False,
        "arguments": list(spec.arguments),
        "framework": framework,
        "communicator": communicator,
        "target": spec.target,
        "nodeCount": spec.node_count,
        **_sections_of(spec.distribution),
        "priority": spec.priority,
        "maxRunDurationSeconds": spec.max_run_duration_s,
        "maxInfrastructureRetries": spec.max_infrastructure_retries,
        "dataReferences": {one.name: {"dataStoreName": one.datastore} for one in spec.inputs if one.datastore},
        "data": {one.name: {"datasetId": one.dataset_id} for one in spec.inputs if one.dataset_id},
        "outputData": {
            one.name: {
                "outputLocation": {"dataPath": {"datastoreName": one.datastore, "relativePath": one.path}},
                "mechanism": one.mode.capitalize(),
            }
            for one in spec.outputs
        },
        "environment": {
            "name": environment.name,
            "version": environment.version,
            "environmentVariables": dict(environment.variables),
        },
        "environmentVariables": dict(spec.environment_variables),
        "history": {"outputCollection": True, "directoriesToWatch": ["logs"]},
    }


def _sections_of(asked: Optional[Distribution]) -> Dict[str, Any]:
    """All three are there always; those that were not asked for have v1's defaults."""
    kind = None if asked is None else asked.kind
    mpi: Dict[str, Any] = {"processCountPerNode": 1}
    tensorflow: Dict[str, Any] = {"workerCount": 1, "parameterServerCount": 1}
    pytorch: Dict[str, Any] = {"communicationBackend": "nccl", "processCount": None}
    if asked is not None and kind == DistributionKind.MPI:
        mpi = {"processCountPerNode": asked.process_count_per_node}
    elif asked is not None and kind == DistributionKind.TENSORFLOW:
        tensorflow = {"workerCount": asked.worker_count, "parameterServerCount": asked.parameter_server_count}
    elif asked is not None:
        pytorch = {"communicationBackend": asked.backend or "nccl", "processCount": asked.process_count}
    return {"mpi": mpi, "tensorflow": tensorflow, "pyTorch": pytorch}
