"""Dataset: the factories of datasets, and registered ones by name."""

from typing import Any, Dict, Optional, Union

from runyard.errors import UserErrorException
from runyard.sdk.file_dataset import FileDataset, make_file_dataset
from runyard.sdk.workspace import Workspace


class FileDatasetFactory:
    """``Dataset.File``."""

    @staticmethod
    def from_files(
        path: Any, validate: bool = True, partition_format: Optional[str] = None, is_file: bool = False
    ) -> FileDataset:
        """A dataset of files: a URL, a local path or glob, (datastore, path), or a list of these.

        The files stay where they are. ``validate`` looks whether local and datastore files are there; the web is asked
        when somebody reads.
        """
        return make_file_dataset(path, validate)

    @staticmethod
    def upload_directory(
        src_dir: str, target: Any, pattern: Optional[str] = None, overwrite: bool = False, show_progress: bool = True
    ) -> FileDataset:
        """Upload a folder to a datastore path, and return the dataset of it."""
        if pattern is not None:
            raise UserErrorException(
                "upload_directory takes no pattern here; upload_files() takes the files you choose."
            )
        reference = target if not isinstance(target, tuple) else target[0].path(target[1])
        reference.datastore.upload(src_dir, reference.path_on_datastore, overwrite, show_progress)
        return make_file_dataset(reference, validate=False)


class Dataset:
    """Datasets of a workspace."""

    File = FileDatasetFactory

    @staticmethod
    def get_by_name(workspace: Workspace, name: str, version: Union[int, str] = "latest") -> FileDataset:
        """The registered dataset of that name; UserErrorException if there is none."""
        wanted = None if version in ("latest", None) else str(version)
        if wanted is not None and not (wanted.isascii() and wanted.isdigit()):
            raise UserErrorException(f"A dataset's version is a whole number or 'latest', not {version!r}.")
        return FileDataset._of(workspace, workspace._call("find_dataset", query={"version": wanted}, name=name))

    @staticmethod
    def get_by_id(workspace: Workspace, id: str) -> FileDataset:
        """The dataset of that id."""
        return FileDataset._of(workspace, workspace._call("get_dataset", dataset_id=id))

    @staticmethod
    def get_all(workspace: Workspace) -> Dict[str, FileDataset]:
        """The latest version of every registered dataset, by name."""
        found: Dict[str, FileDataset] = workspace.datasets
        return found
