"""DataPath: a path of a datastore, before it is said how a run reads it."""

from typing import Any, List, Optional

from runyard.errors import UserErrorException
from runyard.sdk.data_reference import DataReference

#: The name of the folder that a run resumes from; its path is in AZUREML_DATAREFERENCE_MODEL_LOCATION.
MODEL_LOCATION = "MODEL_LOCATION"


class DataPathComputeBinding:
    """How a run reads a DataPath."""

    def __init__(self, mode: str = "mount", path_on_compute: Optional[str] = None, overwrite: bool = False) -> None:
        self.mode = mode
        self.path_on_compute = path_on_compute
        self.overwrite = overwrite

    def create_data_reference(self, data_reference_name: Optional[str] = None, datapath: Any = None) -> DataReference:
        """``datapath``, read in this way."""
        if not isinstance(datapath, DataPath):
            raise UserErrorException(f"datapath is a DataPath, not {datapath!r}.")
        return datapath.create_data_reference(data_reference_name, self)

    @staticmethod
    def create_from_data_reference(data_reference: DataReference) -> "DataPathComputeBinding":
        """The way in which a reference is read."""
        return DataPathComputeBinding(data_reference.mode, data_reference.path_on_compute, data_reference.overwrite)


class DataPath:
    """A folder or file of a datastore."""

    def __init__(self, datastore: Any = None, path_on_datastore: Optional[str] = None, name: Optional[str] = None):
        self.datastore = datastore
        self.path_on_datastore = path_on_datastore
        self.name = name

    @property
    def datastore_name(self) -> Optional[str]:
        """The datastore's name."""
        name: Optional[str] = getattr(self.datastore, "name", self.datastore)
        return name

    def create_data_reference(
        self, data_reference_name: Optional[str] = None, datapath_compute_binding: Any = None
    ) -> DataReference:
        """A reference to it, mounted unless the binding says otherwise."""
        if not hasattr(self.datastore, "name"):
            raise UserErrorException(
                f"A DataPath's datastore is a Datastore, not {self.datastore!r}; Datastore(workspace, name) finds it."
            )
        how = datapath_compute_binding or DataPathComputeBinding()
        return DataReference(
            self.datastore,
            data_reference_name or self.name,
            self.path_on_datastore,
            how.mode,
            how.path_on_compute,
            how.overwrite,
        )

    @staticmethod
    def create_from_data_reference(data_reference: DataReference) -> "DataPath":
        """The path that a reference names."""
        return DataPath(data_reference.datastore, data_reference.path_on_datastore, data_reference.data_reference_name)

    def __repr__(self) -> str:
        return f"DataPath({self.datastore_name!r}, {self.path_on_datastore!r})"


def resume_words(resume_from: Any) -> List[Any]:
    """The arguments that tell a script where to resume from; none where it starts anew."""
    if resume_from is None:
        return []
    if isinstance(resume_from, DataReference):
        resume_from = DataPath.create_from_data_reference(resume_from)
    if not isinstance(resume_from, DataPath):
        raise UserErrorException(f"resume_from is a DataPath of azureml.data.datapath, not {resume_from!r}.")
    return ["--resume-from", resume_from.create_data_reference(MODEL_LOCATION).as_mount()]
