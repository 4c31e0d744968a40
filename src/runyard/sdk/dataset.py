"""Dataset: the factories of datasets, and registered ones by name."""

from typing import Any, Optional

from runyard.errors import UserErrorException
from runyard.sdk.abstract_dataset import AbstractDataset
from runyard.sdk.file_dataset import FileDataset, make_file_dataset
from runyard.sdk.tabular_dataset import TabularDataset
from runyard.sdk.tabular_factory import TabularDatasetFactory, guessed_reader, make_table


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
    Tabular = TabularDatasetFactory

    get_by_name = staticmethod(AbstractDataset.get_by_name)
    get_by_id = staticmethod(AbstractDataset.get_by_id)
    get_all = staticmethod(AbstractDataset.get_all)

    @staticmethod
    def get(workspace: Any, name: Optional[str] = None, id: Optional[str] = None) -> Any:
        """The older name of ``get_by_name`` and ``get_by_id``."""
        if (name is None) == (id is None):
            raise UserErrorException("Dataset.get takes either a name or an id.")
        return Dataset.get_by_name(workspace, name) if name is not None else Dataset.get_by_id(workspace, str(id))

    @staticmethod
    def list(workspace: Any) -> Any:
        """The latest version of every registered dataset."""
        return [*Dataset.get_all(workspace).values()]

    @staticmethod
    def auto_read_files(
        path: Any, include_path: bool = False, partition_format: Optional[str] = None
    ) -> TabularDataset:
        """A table of files whose format their names tell: Parquet, JSON lines, tabs, else commas."""
        return make_table(path, guessed_reader(path, include_path, partition_format), validate=True)

    @staticmethod
    def from_pandas_dataframe(dataframe: Any, path: Any = None, in_memory: bool = False) -> TabularDataset:
        """A table of a DataFrame's rows, written as Parquet to ``path``, a datastore's path; unregistered."""
        from runyard.sdk.tabular_write import store_dataframe

        if path is None:
            raise UserErrorException(
                "A DataFrame is kept in a datastore: pass path=datastore.path('folder'), or use "
                "Dataset.Tabular.register_pandas_dataframe(dataframe, target, name)."
            )
        return TabularDatasetFactory.from_parquet_files(store_dataframe(dataframe, path, False, None, True))
