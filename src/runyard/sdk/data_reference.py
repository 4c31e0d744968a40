"""DataReference: a path of a datastore, and how a run reads it."""

import re
from typing import TYPE_CHECKING, Any, Optional

from runyard.errors import UserErrorException
from runyard.protocol.outputs import OutputMode, OutputSpec
from runyard.protocol.runs import InputMode, InputSpec
from runyard.sdk.workspace import check_belongs

if TYPE_CHECKING:
    from runyard.sdk.datastore import AbstractAzureStorageDatastore


class DataReference:
    """A folder or file of a datastore, as an argument or input of a run."""

    def __init__(
        self,
        datastore: "AbstractAzureStorageDatastore",
        data_reference_name: Optional[str] = None,
        path_on_datastore: Optional[str] = None,
        mode: str = InputMode.MOUNT,
        path_on_compute: Optional[str] = None,
        overwrite: bool = False,
    ) -> None:
        if mode not in (InputMode.MOUNT, InputMode.DOWNLOAD, OutputMode.UPLOAD):
            raise UserErrorException(f"A data reference's mode is mount, download or upload, not {mode!r}.")
        self.datastore = datastore
        self.path_on_datastore = (path_on_datastore or "").strip("/")
        self.data_reference_name = data_reference_name or _name(datastore.name, self.path_on_datastore)
        self.mode = mode
        self.path_on_compute = path_on_compute
        self.overwrite = overwrite

    def as_mount(self) -> "DataReference":
        """The same path, mounted."""
        return self._with(InputMode.MOUNT, self.path_on_compute, self.overwrite)

    def as_download(self, path_on_compute: Optional[str] = None, overwrite: bool = False) -> "DataReference":
        """The same path, downloaded before the script starts."""
        return self._with(InputMode.DOWNLOAD, path_on_compute, overwrite)

    def as_upload(self, path_on_compute: Optional[str] = None, overwrite: bool = False) -> "DataReference":
        """The same path, to which a folder that the script writes is uploaded when it has succeeded."""
        return self._with(OutputMode.UPLOAD, path_on_compute, overwrite)

    def path(self, path: Optional[str] = None, data_reference_name: Optional[str] = None) -> "DataReference":
        """A path below this one."""
        below = "/".join(part for part in (self.path_on_datastore, (path or "").strip("/")) if part)
        return DataReference(self.datastore, data_reference_name, below, self.mode)

    def _with(self, mode: str, path_on_compute: Optional[str], overwrite: bool) -> "DataReference":
        name = self.data_reference_name
        return DataReference(self.datastore, name, self.path_on_datastore, mode, path_on_compute, overwrite)

    def _named(self, name: str) -> "DataReference":
        return DataReference(
            self.datastore, name, self.path_on_datastore, self.mode, self.path_on_compute, self.overwrite
        )

    def _input(self, workspace: Any) -> InputSpec:
        check_belongs(f"The datastore {self.datastore.name!r}", self.datastore.workspace, workspace)
        return InputSpec(
            name=self.data_reference_name,
            mode=self.mode,
            datastore=self.datastore.name,
            path=self.path_on_datastore,
            path_on_compute=self.path_on_compute,
            overwrite=self.overwrite,
        )

    def _output(self, workspace: Any) -> OutputSpec:
        check_belongs(f"The datastore {self.datastore.name!r}", self.datastore.workspace, workspace)
        return OutputSpec(
            name=self.data_reference_name,
            datastore=self.datastore.name,
            mode=self.mode,
            path=self.path_on_datastore,
            source=self.path_on_compute,
            overwrite=self.overwrite,
        )

    def __str__(self) -> str:
        return f"$AZUREML_DATAREFERENCE_{self.data_reference_name}"

    def __repr__(self) -> str:
        return f"DataReference({self.datastore.name!r}, path={self.path_on_datastore!r}, mode={self.mode!r})"


def _name(datastore: str, path: str) -> str:
    """A name that can be a variable's: the datastore's, with its path where there is one."""
    text = re.sub(r"[^A-Za-z0-9_]", "_", f"{datastore}_{path}" if path else datastore)
    return text if not text[0].isdigit() else "_" + text
