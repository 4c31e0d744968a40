"""The sections of a RunConfiguration: data by name, which count, and those of v1 that are only kept."""

from typing import Any, Dict, List, Optional

from runyard.errors import RunConfigurationException
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig


class DataReferenceConfiguration:
    """A path of a datastore and how a run reads it; an entry of ``run_config.data_references``."""

    def __init__(
        self,
        datastore_name: Optional[str] = None,
        mode: str = "mount",
        path_on_datastore: Optional[str] = None,
        path_on_compute: Optional[str] = None,
        overwrite: bool = False,
    ) -> None:
        self.data_store_name = datastore_name
        self.mode = mode
        self.path_on_data_store = path_on_datastore
        self.path_on_compute = path_on_compute
        self.overwrite = overwrite

    @classmethod
    def _of(cls, reference: DataReference) -> "DataReferenceConfiguration":
        return cls(
            reference.datastore.name,
            reference.mode,
            reference.path_on_datastore or None,
            reference.path_on_compute,
            reference.overwrite,
        )

    def _bound(self, name: str, workspace: Any) -> DataReference:
        from runyard.sdk.datastore import Datastore

        datastore = Datastore(workspace, self.data_store_name)
        mode = str(self.mode or "mount").lower()
        return DataReference(datastore, name, self.path_on_data_store, mode, self.path_on_compute, bool(self.overwrite))


class DataConfiguration:
    """A stored dataset and how a run reads it: an entry of ``run_config.data``, as a file has it."""

    def __init__(self, dataset_id: str, mechanism: str = "mount", path_on_compute: Optional[str] = None) -> None:
        self.dataset_id = dataset_id
        self.mechanism = mechanism
        self.path_on_compute = path_on_compute

    @classmethod
    def _of(cls, name: str, consumption: DatasetConsumptionConfig) -> "DataConfiguration":
        if not consumption.dataset.id:
            raise RunConfigurationException(
                f"The dataset {name!r} is stored nowhere, so that a file cannot name it; register it first."
            )
        return cls(consumption.dataset.id, consumption.mode, consumption.path_on_compute)

    @classmethod
    def _read(cls, name: str, data: Any) -> "DataConfiguration":
        """From v1's shape in a file; RunConfigurationException where it names no stored dataset."""
        location = data.get("dataLocation") if isinstance(data, dict) else None
        dataset = location.get("dataset") if isinstance(location, dict) else None
        found = dataset.get("id") if isinstance(dataset, dict) else None
        if not found:
            raise RunConfigurationException(f"The data {name!r} of the file name no stored dataset by its id.")
        return cls(str(found), str(data.get("mechanism") or "mount").lower(), data.get("pathOnCompute"))

    def _written(self) -> Dict[str, Any]:
        """In v1's shape."""
        return {
            "dataLocation": {"dataset": {"id": self.dataset_id, "name": None, "version": None}, "dataPath": None},
            "createOutputDirectories": False,
            "mechanism": self.mechanism.capitalize(),
            "environmentVariableName": None,
            "pathOnCompute": self.path_on_compute,
            "overwrite": False,
        }

    def _bound(self, name: str, workspace: Any) -> DatasetConsumptionConfig:
        from runyard.sdk.dataset import Dataset

        dataset = Dataset.get_by_id(workspace, self.dataset_id)
        return DatasetConsumptionConfig(name, dataset, self.mechanism, self.path_on_compute)


class Dataset:
    """A registered dataset, by its id or name; an entry of ``run_config.data``, which mounts it."""

    def __init__(
        self,
        dataset_id: Optional[str] = None,
        dataset_name: Optional[str] = None,
        dataset_version: Any = None,
    ) -> None:
        self.id = dataset_id
        self.name = dataset_name
        self.version = dataset_version

    def _written(self) -> Dict[str, Any]:
        if not self.id:
            raise RunConfigurationException(f"A file names a dataset by its id, which {self.name!r} lacks.")
        return DataConfiguration(self.id)._written()

    def _bound(self, name: str, workspace: Any) -> DatasetConsumptionConfig:
        from runyard.sdk.dataset import Dataset as Registered

        if self.id:
            return DatasetConsumptionConfig(name, Registered.get_by_id(workspace, self.id), "mount")
        version = "latest" if self.version is None else self.version
        return DatasetConsumptionConfig(name, Registered.get_by_name(workspace, str(self.name), version), "mount")


class DataPath:
    """A path of a datastore, by the datastore's name; an entry of ``run_config.data``, which mounts it."""

    def __init__(self, datastore_name: Optional[str] = None, relative_path: Optional[str] = None) -> None:
        self.datastore_name = datastore_name
        self.relative_path = relative_path

    def _written(self) -> Dict[str, Any]:
        raise RunConfigurationException(
            f"A file names the path {self.relative_path!r} among data_references: use a DataReferenceConfiguration."
        )

    def _bound(self, name: str, workspace: Any) -> DataReference:
        return DataReferenceConfiguration(self.datastore_name, "mount", self.relative_path)._bound(name, workspace)


class AmlComputeConfiguration:
    """The cluster that is found or made for a run whose target is 'amlcompute'."""

    def __init__(self) -> None:
        self.vm_size: Optional[str] = None
        self.vm_priority: Optional[str] = None
        self.retain_cluster = False
        self.name: Optional[str] = None
        self.cluster_max_node_count: Optional[int] = None


class HistoryConfiguration:
    """Which folders' files go to the record while a run goes on; kept: here all of logs and outputs do."""

    def __init__(self) -> None:
        self.output_collection = True
        self.directories_to_watch: List[str] = ["logs"]
        self.enable_mlflow_tracking = True


class SparkConfiguration:
    """Kept: nothing here runs on Spark."""

    def __init__(self) -> None:
        self.configuration: Dict[str, str] = {}


class HdiConfiguration:
    """Kept: there is no HDInsight here."""

    def __init__(self) -> None:
        self.yarn_deploy_mode = "cluster"


class ParallelTaskConfiguration:
    """Kept."""

    def __init__(self) -> None:
        self.max_retries_per_worker = 0
        self.worker_count_per_node = 1
        self.terminal_exit_codes: Optional[List[int]] = None


class KubernetesComputeConfiguration:
    """Kept."""

    def __init__(self) -> None:
        self.instance_type: Optional[str] = None
