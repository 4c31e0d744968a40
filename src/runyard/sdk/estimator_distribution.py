"""How an estimator's processes are spread, and the older markers for that: Mpi, ParameterServer, Gloo, Nccl."""

from typing import Any, Optional, Sequence, Tuple

from runyard.errors import TrainingException
from runyard.protocol.record import record
from runyard.sdk.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from runyard.sdk.notices import say_deprecated, say_once


class _Marker:
    def validate(self, estimator_name: str) -> None:
        """v1 asked here whether it suits an estimator; here the estimator asks itself."""


class Mpi(MpiConfiguration, _Marker):
    """Before there was MpiConfiguration."""

    def __init__(self, process_count_per_node: int = 1) -> None:
        super().__init__(process_count_per_node)


class ParameterServer(TensorflowConfiguration, _Marker):
    """Before there was TensorflowConfiguration."""


class Gloo(PyTorchConfiguration, _Marker):
    """PyTorch's processes, which meet by gloo."""

    def __init__(self) -> None:
        super().__init__("Gloo")


class Nccl(PyTorchConfiguration, _Marker):
    """PyTorch's processes, which meet by nccl."""

    def __init__(self) -> None:
        super().__init__("Nccl")


@record
class ProcessWish:
    """An estimator's parameters of processes and nodes, as they were given."""

    node_count: Any = 1
    process_count_per_node: Any = 1
    worker_count: Any = 1
    parameter_server_count: Any = 1
    #: distributed_backend: 'mpi', 'ps', 'gloo', 'nccl'.
    backend: Optional[str] = None
    #: distributed_training.
    configuration: Any = None


_KINDS = {
    "mpi": MpiConfiguration,
    "ps": TensorflowConfiguration,
    "gloo": PyTorchConfiguration,
    "nccl": PyTorchConfiguration,
}


def configuration_of(wish: ProcessWish, backends: Sequence[str], estimator: str) -> Tuple[Any, int]:
    """The distributed job's configuration (None: one process), and its nodes.

    ``backends`` are those that the estimator can have. TrainingException says what does not fit.
    """
    _check(wish, backends, estimator)
    _tell(wish)
    if wish.configuration is not None:
        return _with_counts(wish)
    if wish.backend is None:
        return None, 1
    name, nodes, each = wish.backend.lower(), wish.node_count, wish.process_count_per_node
    if name == "mpi":
        return MpiConfiguration(each, nodes), nodes
    if name == "ps":
        return TensorflowConfiguration(wish.worker_count, wish.parameter_server_count), nodes
    return PyTorchConfiguration(name.capitalize(), nodes * each, nodes), nodes


def _check(wish: ProcessWish, backends: Sequence[str], estimator: str) -> None:
    for name in ("node_count", "process_count_per_node"):
        count = getattr(wish, name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise TrainingException(f"{name} is a whole number of at least 1, not {count!r}.")
    if wish.backend is not None and wish.configuration is not None:
        raise TrainingException("Give distributed_training or distributed_backend, not both.")
    known = ", ".join(backends)
    if wish.backend is not None and str(wish.backend).lower() not in backends:
        raise TrainingException(
            f"distributed_backend {wish.backend!r} is none that the {estimator} estimator has: it is one of {known}."
        )
    kinds = tuple(_KINDS[name] for name in backends)
    if wish.configuration is not None and not isinstance(wish.configuration, kinds):
        shown = " or ".join(sorted({kind.__name__ for kind in kinds}))
        raise TrainingException(
            f"distributed_training of the {estimator} estimator is {shown} of azureml.core.runconfig, "
            f"not {wish.configuration!r}."
        )
    if wish.backend is None and wish.configuration is None:
        _check_single(wish)


def _check_single(wish: ProcessWish) -> None:
    for name in ("node_count", "process_count_per_node"):
        if getattr(wish, name) > 1:
            raise TrainingException(
                f"{name} is {getattr(wish, name)}, and nothing says how the processes work together; "
                "pass distributed_training=MpiConfiguration()."
            )


def _tell(wish: ProcessWish) -> None:
    """What is out of date, as far as it was given."""
    if wish.backend is not None:
        kind = _KINDS[wish.backend.lower()]
        named = repr(wish.backend.capitalize()) if kind is PyTorchConfiguration else ""
        say_deprecated("distributed_backend", f"distributed_training={kind.__name__}({named})")
    if wish.process_count_per_node != 1:
        say_deprecated("process_count_per_node", "distributed_training=MpiConfiguration(process_count_per_node=...)")
    has_tasks = wish.backend is not None and _KINDS[wish.backend.lower()] is TensorflowConfiguration
    for name in ("worker_count", "parameter_server_count"):
        if getattr(wish, name) == 1:
            continue
        say_deprecated(name, f"distributed_training=TensorflowConfiguration({name}=...)")
        if not has_tasks and not isinstance(wish.configuration, TensorflowConfiguration):
            say_once(
                f"{name} counts beside distributed_backend='ps' or a TensorflowConfiguration alone; not used here."
            )


def _with_counts(wish: ProcessWish) -> Tuple[Any, int]:
    """The configuration that was given, with what the estimator's own parameters add."""
    asked = wish.configuration
    if isinstance(asked, TensorflowConfiguration):
        counts = [_one_of(asked, wish, name) for name in ("worker_count", "parameter_server_count")]
        return TensorflowConfiguration(*counts), wish.node_count
    nodes = _one_of(asked, wish, "node_count")
    if isinstance(asked, MpiConfiguration):
        return MpiConfiguration(_one_of(asked, wish, "process_count_per_node"), nodes), nodes
    processes = asked.process_count
    if processes is None:
        processes = nodes * wish.process_count_per_node
    return PyTorchConfiguration(asked.communication_backend, processes, nodes), nodes


def _one_of(asked: Any, wish: ProcessWish, name: str) -> Any:
    """A count that configuration and estimator both have: 1, each one's default, gives way to the other."""
    theirs, ours = getattr(asked, name), getattr(wish, name)
    if theirs != 1 and ours != 1 and theirs != ours:
        raise TrainingException(
            f"{name} is {ours} in the estimator and {theirs} in its distributed_training; give it once."
        )
    return ours if theirs == 1 else theirs
