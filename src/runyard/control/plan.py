"""From a run as stored to the plan of one attempt. Pure: what it needs is handed in."""

from dataclasses import replace
from typing import Dict, Optional, Tuple

from runyard.protocol.compute import EngineKind, VmSize
from runyard.protocol.datasets import Dataset, Source
from runyard.protocol.datastores import Datastore
from runyard.protocol.environments import Builder, DockerSpec, Lock
from runyard.protocol.experiments import Experiment
from runyard.protocol.outputs import OutputPlan, OutputSpec, may_overwrite, output_path
from runyard.protocol.plan import ContainerPlan, InputPlan, LaunchPlan
from runyard.protocol.runs import InputSpec, RunSpec
from runyard.protocol.selection import Step
from runyard.protocol.workspaces import Workspace

#: Shared memory of a container where nobody says how much, as v1 had it: an engine's own 64 MB end data loaders.
DEFAULT_SHM_SIZE = "2g"

#: What a script is told that it runs on, in v1's manner, by EngineKind.
TARGET_TYPES = {
    EngineKind.LOCAL: "AmlCompute",
    EngineKind.SLURM: "SlurmCompute",
    EngineKind.RAY: "RayCompute",
    EngineKind.SSH: "VirtualMachine",
}

#: Properties of a run that say what was checked out where it was submitted.
_GIT = "azureml.git."
_NO_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


#: How long its processes have after TERM, for a checkpoint say, as a variable of the run's environment; at most.
GRACE_VARIABLE, GRACE_MAX_S = "RUNYARD_GRACE_SECONDS", 3600


def make_plan(
    spec: RunSpec,
    workspace: Workspace,
    experiment: Experiment,
    attempt: int,
    lock: Lock,
    kit: str,
    datasets: Dict[str, Dataset],
    datastores: Dict[str, Datastore],
    allow_private_urls: bool,
    engine: str = EngineKind.LOCAL,
    fence_s: Optional[float] = None,
    gpus: Optional[str] = None,
    size: Optional[VmSize] = None,
    processes_max: Optional[int] = None,
) -> LaunchPlan:
    """The plan of that attempt; ``engine`` is the EngineKind of its target, ``fence_s`` as in LaunchPlan.

    ``gpus`` are as the run's row has them, ``size`` is that of its cluster's nodes, ``processes_max`` as in LaunchPlan.

    ``datasets`` (by id) and ``datastores`` (by name) hold all that its inputs and outputs name.
    """
    variables = {**spec.environment.variables, **spec.environment_variables}
    return LaunchPlan(
        run_id=spec.run_id,
        workspace=workspace.name,
        experiment=spec.experiment,
        attempt=attempt,
        kit=kit,
        lock=lock,
        script=spec.script,
        command=spec.command,
        arguments=spec.arguments,
        snapshot=spec.snapshot,
        inputs=tuple(_plan_input(one, datasets, datastores) for one in spec.inputs),
        outputs=tuple(_plan_output(one, spec.run_id, datastores) for one in spec.outputs),
        variables=variables,
        grace_s=_grace_s(variables.get(GRACE_VARIABLE, "")),
        v1_variables=_v1_variables(spec, workspace, experiment),
        max_run_duration_s=spec.max_run_duration_s,
        target=spec.target,
        target_type="local" if spec.target == "local" else TARGET_TYPES[engine],
        allow_private_urls=allow_private_urls,
        node_count=spec.node_count,
        distribution=spec.distribution,
        fence_s=fence_s,
        gpus=None if gpus is None else _by_node(gpus, spec.node_count),
        memory_bytes=_memory_bytes(spec, workspace, size if engine == EngineKind.LOCAL else None),
        processes_max=processes_max,
        container=_container(spec.environment.docker) if lock.builder == Builder.DOCKER else None,
    )


def _grace_s(asked: str) -> float:
    """What a user asks for, within reason; as it is by itself where that is no number of seconds."""
    if not (asked.isascii() and asked.isdigit()):
        return LaunchPlan.grace_s
    return float(min(max(1, int(asked[:9])), GRACE_MAX_S))


def _memory_bytes(spec: RunSpec, workspace: Workspace, size: Optional[VmSize]) -> Optional[int]:
    """What the run may take, and what a node has where that counts: other engines hold jobs to what they gave."""
    has = int(size.memory_gib * (1 << 30)) if size is not None and workspace.tags.get("compute") == "strict" else None
    return min((one for one in (spec.memory_bytes, has) if one is not None), default=None)


def _by_node(gpus: str, nodes: int) -> Tuple[str, ...]:
    """The GPUs of each node; none at all are an empty text, however many nodes there are."""
    return tuple(gpus.split(";")) if gpus else ("",) * nodes


def _container(docker: DockerSpec) -> ContainerPlan:
    return ContainerPlan(docker.arguments, docker.shm_size or DEFAULT_SHM_SIZE)


def _v1_variables(spec: RunSpec, workspace: Workspace, experiment: Experiment) -> Dict[str, str]:
    """Those that the record decides; runner/variables.py has those that every node knows."""
    found = {
        "AZUREML_ARM_SUBSCRIPTION": workspace.subscription_id or _NO_SUBSCRIPTION,
        "AZUREML_ARM_RESOURCEGROUP": workspace.resource_group or workspace.name,
        "AZUREML_ARM_WORKSPACE_NAME": workspace.name,
        "AZUREML_ARM_PROJECT_NAME": experiment.name,
        "AZUREML_WORKSPACE_ID": workspace.id,
        "AZUREML_EXPERIMENT_ID": experiment.id,
    }
    for name, text in spec.properties.items():
        if name.startswith(_GIT):
            found["AZUREML_GIT_" + name[len(_GIT) :].upper()] = text
    return found


def _plan_input(asked: InputSpec, datasets: Dict[str, Dataset], datastores: Dict[str, Datastore]) -> InputPlan:
    sources: Tuple[Source, ...]
    steps: Tuple[Step, ...] = ()
    if asked.dataset_id is not None:
        sources, steps = datasets[asked.dataset_id].sources, datasets[asked.dataset_id].steps
    else:
        sources = (Source(datastore=asked.datastore, path=asked.path),)
    return InputPlan(
        name=asked.name,
        mode=asked.mode,
        sources=tuple(_placed(source, datastores) for source in sources),
        path_on_compute=asked.path_on_compute,
        overwrite=asked.overwrite,
        is_reference=asked.dataset_id is None,
        dataset_id=asked.dataset_id,
        steps=steps,
    )


def _plan_output(asked: OutputSpec, run_id: str, datastores: Dict[str, Datastore]) -> OutputPlan:
    return OutputPlan(
        name=asked.name,
        mode=asked.mode,
        target=_placed(Source(datastore=asked.datastore, path=output_path(asked, run_id)), datastores),
        source=asked.source,
        globs=asked.globs,
        overwrite=may_overwrite(asked),
        is_reference=asked.dataset is None,
    )


def _placed(source: Source, datastores: Dict[str, Datastore]) -> Source:
    """A datastore's source, with where its files are."""
    store = datastores.get(source.datastore or "")
    if store is None:
        return source
    return replace(source, is_remote=store.is_remote, root=None if store.is_remote else store.root or None)
