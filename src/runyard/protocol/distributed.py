"""A run of several processes: what was asked (Distribution), the processes of it (Task), and what each is told.

Pure, and the same on every node: the runners tell each other where they are, and each wires its own processes.
"""

import json
from typing import Dict, List, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.record import record

#: The port of a TensorFlow task on its node, where it is free there, as v1 had it.
TENSORFLOW_PORT = 2222
#: The port at which PyTorch's processes meet, as its own launcher has it.
PYTORCH_PORT = 29500
#: The port that v1 named to the processes of MPI, for whatever they wish to meet at.
MPI_PORT = 6000


class DistributionKind:
    """Who starts the processes, and what tells them of each other."""

    MPI = "mpi"
    TENSORFLOW = "tensorflow"
    PYTORCH = "pytorch"
    ALL = (MPI, TENSORFLOW, PYTORCH)


class Role:
    """What a task of TensorFlow is; a process of PyTorch is a worker."""

    WORKER = "worker"
    PARAMETER_SERVER = "ps"


@record
class Distribution:
    """How a run's processes are spread over its nodes."""

    kind: str
    #: MPI: on each node.
    process_count_per_node: int = 1
    #: TensorFlow: in all.
    worker_count: int = 1
    parameter_server_count: int = 0
    #: PyTorch: in all.
    process_count: int = 1
    #: PyTorch: nccl or gloo, as v1 recorded it; the script chooses by itself.
    backend: str = ""


def known_kind(asked: Distribution) -> str:
    """Its kind; UserErrorException for one that there is not.

    All of this module asks here before it does one thing or another by a kind. Runners then know two ways to start
    processes: mpirun's for MPI, and one by one (runner/team.py) for every other kind.
    """
    if asked.kind not in DistributionKind.ALL:
        raise UserErrorException(f"A distributed run is one of mpi, tensorflow or pytorch, not {asked.kind[:40]!r}.")
    return asked.kind


def framework_of(asked: Optional[Distribution]) -> Tuple[str, str]:
    """v1's words for what a run's processes are started by: its framework and communicator."""
    if asked is None:
        return "Python", "None"
    kind = known_kind(asked)
    if kind == DistributionKind.MPI:
        return "Python", "IntelMpi"
    if kind == DistributionKind.TENSORFLOW:
        return "TensorFlow", "ParameterServer"
    return "PyTorch", asked.backend.capitalize() or "Nccl"


@record
class Task:
    """One process of a run."""

    #: From 0, in the order in which tasks are named; of MPI and PyTorch it is the rank.
    rank: int
    role: str
    #: From 0 within the role.
    index: int
    #: On which of the run's nodes, and its number there.
    node: int
    local_rank: int

    @property
    def is_worker(self) -> bool:
        """Does the run end with it? A parameter server ends once no worker is left."""
        return self.role == Role.WORKER

    @property
    def log_name(self) -> str:
        """Its log in the run's record, as v1 named it."""
        return f"user_logs/std_log_process_{self.index}{'' if self.is_worker else '_ps'}.txt"

    @property
    def shown(self) -> str:
        """What it is called in a sentence."""
        return f"{'process' if self.is_worker else 'parameter server'} {self.index}"


@record
class Place:
    """Where a node can be reached by the others."""

    address: str
    #: TensorFlow: one for each of its tasks, in their order. Else of node 0 alone: where all may meet.
    ports: Tuple[int, ...] = ()


def problem(asked: Distribution, node_count: int) -> Optional[str]:
    """What is wrong with the numbers, in one sentence; None where nothing is. As ``known_kind`` for the kind."""
    kind = known_kind(asked)
    counts = {
        "process_count_per_node": asked.process_count_per_node,
        "worker_count": asked.worker_count,
        "process_count": asked.process_count,
        "node_count": node_count,
    }
    for name, count in counts.items():
        if count < 1:
            return f"{name} is at least 1, not {count}."
    if asked.parameter_server_count < 0:
        return f"parameter_server_count is at least 0, not {asked.parameter_server_count}."
    if kind == DistributionKind.TENSORFLOW and asked.worker_count + asked.parameter_server_count < node_count:
        return f"{node_count} nodes are more than the {asked.worker_count + asked.parameter_server_count} tasks."
    if kind == DistributionKind.PYTORCH and asked.process_count % node_count:
        return f"process_count ({asked.process_count}) is no multiple of node_count ({node_count})."
    return None


def count_tasks(asked: Distribution, node_count: int) -> int:
    """How many processes the run has; quick, whatever the numbers are."""
    kind = known_kind(asked)
    if kind == DistributionKind.TENSORFLOW:
        return asked.worker_count + asked.parameter_server_count
    return asked.process_count if kind == DistributionKind.PYTORCH else asked.process_count_per_node * node_count


def tasks_of(asked: Distribution, node_count: int) -> Tuple[Task, ...]:
    """Every process of the run, by rank.

    MPI and PyTorch fill a node before the next one. TensorFlow's workers go round the nodes, and then its parameter
    servers, so that where there are more tasks than nodes a server shares a node with a worker.
    """
    kind = known_kind(asked)
    if kind == DistributionKind.TENSORFLOW:
        return _tensorflow_tasks(asked, node_count)
    each = asked.process_count_per_node
    if kind == DistributionKind.PYTORCH:
        each = asked.process_count // node_count
    return tuple(Task(rank, Role.WORKER, rank, rank // each, rank % each) for rank in range(each * node_count))


def _tensorflow_tasks(asked: Distribution, node_count: int) -> Tuple[Task, ...]:
    roles = [(Role.WORKER, index) for index in range(asked.worker_count)]
    roles += [(Role.PARAMETER_SERVER, index) for index in range(asked.parameter_server_count)]
    on_node = [0] * node_count
    found = []
    for rank, (role, index) in enumerate(roles):
        node = rank % node_count
        found.append(Task(rank, role, index, node, on_node[node]))
        on_node[node] += 1
    return tuple(found)


def ports_wanted(asked: Distribution, node_count: int, node: int) -> Tuple[int, ...]:
    """The ports that a node reserves, each that one or the next free one."""
    kind = known_kind(asked)
    if kind == DistributionKind.TENSORFLOW:
        return tuple(TENSORFLOW_PORT for one in tasks_of(asked, node_count) if one.node == node)
    if node != 0:
        return ()
    return (PYTORCH_PORT,) if kind == DistributionKind.PYTORCH else (MPI_PORT,)


def wire(asked: Distribution, tasks: Sequence[Task], places: Sequence[Place], task: Task) -> Dict[str, str]:
    """The variables that tell ``task`` of the others; ``places``: of each node, by its number."""
    kind, values = known_kind(asked), _batch_variables(tasks, places, task)
    if kind == DistributionKind.TENSORFLOW:
        values["TF_CONFIG"] = tf_config(tasks, places, task)
        values["AZ_BATCHAI_PS_HOSTS"] = ",".join(_hosts(tasks, places, Role.PARAMETER_SERVER))
        values["AZ_BATCHAI_WORKER_HOSTS"] = ",".join(_hosts(tasks, places, Role.WORKER))
    elif kind == DistributionKind.PYTORCH:
        values.update(_pytorch_variables(tasks, places, task))
    return values


def tf_config(tasks: Sequence[Task], places: Sequence[Place], task: Task) -> str:
    """TF_CONFIG as TensorFlow's estimators and distribution strategies read it.

    {"cluster": {"ps": ["host:port", ...], "worker": [...]}, "task": {"type": ..., "index": ...}, "environment":
    "cloud"}; a role without a task is left out.
    """
    cluster: Dict[str, List[str]] = {}
    for role in (Role.PARAMETER_SERVER, Role.WORKER):
        hosts = _hosts(tasks, places, role)
        if hosts:
            cluster[role] = hosts
    config = {"cluster": cluster, "task": {"type": task.role, "index": task.index}, "environment": "cloud"}
    return json.dumps(config)


def _hosts(tasks: Sequence[Task], places: Sequence[Place], role: str) -> List[str]:
    found = [one for one in tasks if one.role == role]
    return [f"{places[one.node].address}:{places[one.node].ports[one.local_rank]}" for one in found]


def _batch_variables(tasks: Sequence[Task], places: Sequence[Place], task: Task) -> Dict[str, str]:
    """The names of v1's clusters, which were Azure Batch and Batch AI."""
    return {
        "AZ_BATCHAI_TASK_TYPE": task.role,
        "AZ_BATCHAI_TASK_INDEX": str(task.index),
        "AZ_BATCH_HOST_LIST": ",".join(one.address for one in places),
        "AZ_BATCH_NODE_LIST": ";".join(one.address for one in places),
        "AZ_BATCH_MASTER_NODE": f"{places[0].address}:{places[0].ports[0]}",
        "AZ_BATCHAI_MPI_MASTER_NODE": places[0].address,
        "AZ_BATCHAI_WORKER_HOSTS": ",".join(one.address for one in places),
        # As v1's own code asks it: any text says that this is not the process which speaks for all.
        **({"AZUREML_SECONDARY_INSTANCE": "True"} if task.rank else {}),
    }


def _pytorch_variables(tasks: Sequence[Task], places: Sequence[Place], task: Task) -> Dict[str, str]:
    """What torch.distributed's "env://" reads, and the address by which v1's estimators met."""
    master, port = places[0].address, str(places[0].ports[0])
    return {
        "MASTER_ADDR": master,
        "MASTER_PORT": port,
        "WORLD_SIZE": str(len(tasks)),
        "NODE_RANK": str(task.node),
        "RANK": str(task.rank),
        "LOCAL_RANK": str(task.local_rank),
        "LOCAL_WORLD_SIZE": str(sum(one.node == task.node for one in tasks)),
        "AZ_BATCHAI_PYTORCH_INIT_METHOD": f"tcp://{master}:{port}",
    }
