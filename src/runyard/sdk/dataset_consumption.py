"""DatasetConsumptionConfig: how a run reads a dataset, as an argument or a named input."""

from typing import Any, Optional

from runyard.errors import UserErrorException
from runyard.protocol.runs import InputMode, InputSpec


class DatasetConsumptionConfig:
    """A dataset and the way it is read; as an argument it is the path on the node, or the id if it is read directly."""

    def __init__(
        self, name: str, dataset: Any, mode: str = InputMode.DIRECT, path_on_compute: Optional[str] = None
    ) -> None:
        if mode not in (InputMode.MOUNT, InputMode.DOWNLOAD, InputMode.DIRECT):
            raise UserErrorException(f"A dataset is read by mount, download or direct, not {mode!r}.")
        if mode != InputMode.DIRECT and getattr(dataset, "_kind", "file") == "tabular":
            raise UserErrorException("A table has no files to mount: pass as_named_input(name), or to_csv_files().")
        self.name = name
        self.dataset = dataset
        self.mode = mode
        self.path_on_compute = path_on_compute

    def as_mount(self, path_on_compute: Optional[str] = None) -> "DatasetConsumptionConfig":
        """The same, mounted."""
        return DatasetConsumptionConfig(self.name, self.dataset, InputMode.MOUNT, path_on_compute)

    def as_download(self, path_on_compute: Optional[str] = None) -> "DatasetConsumptionConfig":
        """The same, downloaded before the script starts."""
        return DatasetConsumptionConfig(self.name, self.dataset, InputMode.DOWNLOAD, path_on_compute)

    def as_direct(self) -> "DatasetConsumptionConfig":
        """The dataset itself, without files."""
        return DatasetConsumptionConfig(self.name, self.dataset, InputMode.DIRECT)

    def _named(self, name: str) -> "DatasetConsumptionConfig":
        return DatasetConsumptionConfig(name, self.dataset, self.mode, self.path_on_compute)

    def _input(self, workspace: Any) -> InputSpec:
        dataset_id = self.dataset._ensure_saved(workspace)
        return InputSpec(self.name, self.mode, dataset_id=dataset_id, path_on_compute=self.path_on_compute)

    def __str__(self) -> str:
        if self.mode == InputMode.DIRECT:
            return self.dataset.id or f"DatasetConsumptionConfig:{self.name}"
        return f"$AZUREML_DATAREFERENCE_{self.name}"
