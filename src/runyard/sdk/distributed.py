"""How a run's processes are spread over nodes: v1's configurations for MPI, TensorFlow and PyTorch."""

from typing import Any, Optional, Tuple

from runyard.errors import RunConfigurationException
from runyard.protocol.distributed import Distribution, DistributionKind, problem


class _Configuration:
    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class MpiConfiguration(_Configuration):
    """``process_count_per_node`` processes on each of ``node_count`` nodes, started by Open MPI's mpirun."""

    def __init__(self, process_count_per_node: int = 1, node_count: int = 1) -> None:
        self.process_count_per_node = process_count_per_node
        self.node_count = node_count


class TensorflowConfiguration(_Configuration):
    """Workers and parameter servers, which find each other by TF_CONFIG; as many nodes as workers, unless said."""

    def __init__(self, worker_count: int = 1, parameter_server_count: int = 1) -> None:
        self.worker_count = worker_count
        self.parameter_server_count = parameter_server_count


class PyTorchConfiguration(_Configuration):
    """``process_count`` processes in all (default: one a node), which meet at MASTER_ADDR and MASTER_PORT."""

    def __init__(
        self, communication_backend: str = "Nccl", process_count: Optional[int] = None, node_count: int = 1
    ) -> None:
        self.communication_backend = communication_backend
        self.process_count = process_count
        self.node_count = node_count


def distribution_of(config: Any, node_count: Optional[int] = None) -> Tuple[Distribution, int]:
    """What ``config`` asks for, and on how many nodes; ``node_count`` overrides its own.

    RunConfigurationException for another kind of object, and for numbers that fit no run.
    """
    if isinstance(config, MpiConfiguration):
        asked = Distribution(DistributionKind.MPI, _count("process_count_per_node", config.process_count_per_node))
        nodes = _count("node_count", config.node_count)
    elif isinstance(config, TensorflowConfiguration):
        asked = Distribution(
            DistributionKind.TENSORFLOW,
            worker_count=_count("worker_count", config.worker_count),
            parameter_server_count=_count("parameter_server_count", config.parameter_server_count),
        )
        nodes = asked.worker_count
    elif isinstance(config, PyTorchConfiguration):
        nodes = _count("node_count", config.node_count) if node_count is None else node_count
        wanted = nodes if config.process_count is None else _count("process_count", config.process_count)
        asked = Distribution(
            DistributionKind.PYTORCH, process_count=wanted, backend=str(config.communication_backend).lower()
        )
    else:
        raise RunConfigurationException(
            "distributed_job_config is an MpiConfiguration, a TensorflowConfiguration or a PyTorchConfiguration of "
            f"azureml.core.runconfig, not {config!r}."
        )
    nodes = nodes if node_count is None else node_count
    wrong = problem(asked, nodes)
    if wrong is not None:
        raise RunConfigurationException(f"{config!r} cannot be carried out: {wrong}")
    return asked, nodes


def _count(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise RunConfigurationException(f"{name} is a whole number, not {given!r}.")
    return given
