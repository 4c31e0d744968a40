"""RunConfiguration: where and how a script runs, the older of v1's two ways to say it."""

from typing import Any, Dict, List, Optional, Tuple

from runyard.errors import RunConfigurationException
from runyard.protocol.distributed import Distribution
from runyard.sdk.distributed import (
    MpiConfiguration,
    PyTorchConfiguration,
    TensorflowConfiguration,
    distribution_of,
)
from runyard.sdk.environment import Environment
from runyard.sdk.notices import say_once
from runyard.sdk.run_sections import (
    AmlComputeConfiguration,
    HdiConfiguration,
    HistoryConfiguration,
    KubernetesComputeConfiguration,
    ParallelTaskConfiguration,
    SparkConfiguration,
)
from runyard.sdk.whole_number import whole_number

#: v1's names of what starts a distributed run's processes, in lower case; which section each reads.
_COMMUNICATORS = {"parameterserver": "tensorflow", "intelmpi": "mpi", "openmpi": "mpi", "mpi": "mpi"}
_BACKENDS = ("nccl", "gloo")


class RunConfiguration:
    """Target, environment and arguments; pass it to a ScriptRunConfig as ``run_config``."""

    def __init__(
        self,
        script: Optional[str] = None,
        arguments: Any = None,
        framework: Optional[str] = None,
        communicator: Optional[str] = None,
        conda_dependencies: Any = None,
        _history_enabled: Any = None,
        _path: Any = None,
        _name: Any = None,
        command: Any = None,
    ) -> None:
        self.script = script
        #: A list, or a text, as ScriptRunConfig takes them.
        self.arguments: Any = arguments if arguments is not None else []
        self.command = command
        self.framework = framework or "Python"
        self.communicator = communicator or "None"
        self.target: Any = "local"
        self.environment = Environment()
        #: A DockerConfiguration: how the container of the environment's image is started.
        self.docker: Any = None
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies
        self.environment_variables: Dict[str, str] = {}
        self.node_count = 1
        #: Sections that count where ``communicator`` says so.
        self.mpi = MpiConfiguration()
        self.tensorflow = TensorflowConfiguration()
        self.pytorch = PyTorchConfiguration()
        self.max_run_duration_seconds: Optional[int] = None
        #: By name: DataReference or DataReferenceConfiguration; datasets' consumption; OutputFileDatasetConfig.
        self.data_references: Dict[str, Any] = {}
        self.data: Dict[str, Any] = {}
        self.output_data: Dict[str, Any] = {}
        #: Counts where the target is 'amlcompute'.
        self.amlcompute = AmlComputeConfiguration()
        #: Among the runs that wait for the same target, those of a higher one come first; None is 0.
        self.priority: Optional[int] = None
        #: How often the run may start again after its machines are lost; None: as the target's priority says.
        self.max_infrastructure_retries: Optional[int] = None
        self.auto_prepare_environment = True
        self._set_kept_sections()

    def _set_kept_sections(self) -> None:
        """What v1 had, is kept, and means nothing here."""
        self.history = HistoryConfiguration()
        self.spark = SparkConfiguration()
        self.hdi = HdiConfiguration()
        self.paralleltask = ParallelTaskConfiguration()
        self.kubernetescompute = KubernetesComputeConfiguration()
        self.datacaches: List[Any] = []
        self.services: Dict[str, Any] = {}
        self.source_directory_data_store: Optional[str] = None
        self.auto_cluster_compute_specification: Any = None
        self.credential_passthrough = False

    def save(
        self, path: Optional[str] = None, name: Optional[str] = None, separate_environment_yaml: bool = False
    ) -> str:
        """Write it, as v1 did; returns the file's path.

        ``path`` is a project's folder (default: the current one), in which the file is .azureml/<name>.runconfig, or a
        file. With ``separate_environment_yaml`` the packages stand in environment.yml beside it.
        """
        from runyard.sdk.run_configuration_file import save

        return save(self, path, name, separate_environment_yaml)

    @staticmethod
    def load(path: str, name: Optional[str] = None) -> "RunConfiguration":
        """The configuration of a file, or of that name in a project's folder: ours, or one that v1 wrote."""
        from runyard.sdk.run_configuration_file import load

        return load(path, name)

    @staticmethod
    def delete(path: str, name: str) -> None:
        """Delete the file of that name in a project's folder."""
        from runyard.sdk.run_configuration_file import delete

        delete(path, name)

    def _distribute(self, config: Any) -> None:
        """Take a distributed job's configuration, in the words of the sections."""
        _, self.node_count = distribution_of(config)
        backend = getattr(config, "communication_backend", _BACKENDS[0])
        if str(backend).lower() not in _BACKENDS:
            raise RunConfigurationException(
                f"The communication_backend of a PyTorchConfiguration is Nccl or Gloo, not {backend!r}; for MPI's "
                "processes take an MpiConfiguration."
            )
        if isinstance(config, TensorflowConfiguration):
            self.tensorflow, self.framework, self.communicator = config, "TensorFlow", "ParameterServer"
        elif isinstance(config, MpiConfiguration):
            self.mpi, self.framework, self.communicator = config, "Python", "IntelMpi"
        else:
            self.pytorch, self.framework, self.communicator = config, "PyTorch", config.communication_backend

    def _distribution(self) -> Tuple[Optional[Distribution], int]:
        """The processes that are asked for, if there are several, and on how many nodes."""
        name, nodes = str(self.communicator or "None").lower(), whole_number(self.node_count)
        if str(self.framework).lower() == "pyspark":
            say_once("framework 'PySpark' starts no Spark here: Python starts the script, as any other.")
        if nodes is None:
            raise RunConfigurationException(f"node_count is a whole number, not {self.node_count!r}.")
        if name == "none":
            if nodes != 1:
                raise RunConfigurationException(
                    f"node_count is {nodes}, and nothing says how the nodes work together; pass "
                    "distributed_job_config=MpiConfiguration(node_count=...), or set the communicator."
                )
            return None, 1
        if name in _BACKENDS:
            return distribution_of(self.pytorch, nodes)
        if name not in _COMMUNICATORS:
            raise RunConfigurationException(
                "The communicator is None, ParameterServer, OpenMpi, IntelMpi, Nccl or Gloo, "
                f"not {self.communicator!r}."
            )
        return distribution_of(getattr(self, _COMMUNICATORS[name]), nodes)
