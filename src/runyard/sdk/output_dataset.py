"""OutputFileDatasetConfig: a folder that a run writes, and that becomes a dataset when the run has completed."""

import re
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple, TypeVar

from runyard.errors import UserErrorException
from runyard.protocol.datasets import DatasetSpec
from runyard.protocol.outputs import DEFAULT_PATH, OutputMode, OutputSpec, output_path
from runyard.protocol.runs import InputMode
from runyard.protocol.selection import Step, StepKind
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.datastore import AbstractAzureStorageDatastore
from runyard.sdk.workspace import check_belongs

T = TypeVar("T", bound="OutputFileDatasetConfig")

_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_]")


class OutputFileDatasetConfig:
    """A folder that a run writes; as an argument it is the folder's path on the node.

    Its files go to ``destination``, a datastore and a path with {run-id} and {output-name} in it, both filled in. v1's
    default is a folder of the default datastore that no other run has.
    """

    def __init__(
        self,
        name: Optional[str] = None,
        destination: Optional[Tuple[Any, str]] = None,
        source: Optional[str] = None,
        partition_format: Optional[str] = None,
    ) -> None:
        if partition_format is not None:
            raise UserErrorException("partition_format belongs to tables: pass it to read_delimited_files().")
        if name is not None and not isinstance(name, str):
            raise UserErrorException(f"An output's name is a text, not {name!r}.")
        self.name = name if name is not None else f"output_{id(self):x}"
        self.destination = _destination(destination)
        self.source = None if source is None else str(source)
        self.mode = OutputMode.MOUNT
        self._overwrite = False
        self._globs: Tuple[str, ...] = ()
        self._dataset = DatasetSpec(sources=())
        self._pattern = ""
        #: Datastore and path of the last submitted run's files; one list for all variants of this output.
        self._written: List[Tuple[Any, str]] = []

    def as_mount(self, disable_metadata_cache: bool = False) -> "OutputFileDatasetConfig":
        """The same, written to the datastore's own folder where the node has it, and else stored after the script."""
        return self._with(mode=OutputMode.MOUNT, _overwrite=False, _globs=())

    def as_upload(self, overwrite: bool = False, source_globs: Any = None) -> "OutputFileDatasetConfig":
        """The same, stored after a script that succeeded. ``source_globs``: patterns of the files to store."""
        is_many = isinstance(source_globs, (list, tuple, set))
        globs = tuple(source_globs) if is_many else (source_globs,) if source_globs else ()
        if not all(isinstance(one, str) for one in globs):
            raise UserErrorException(f"source_globs is a pattern or a list of patterns, not {source_globs!r}.")
        return self._with(mode=OutputMode.UPLOAD, _overwrite=overwrite, _globs=globs)

    def register_on_complete(
        self, name: str, description: Optional[str] = None, tags: Optional[Dict[str, str]] = None
    ) -> "OutputFileDatasetConfig":
        """The same, registered under that name, as its next version, when the run has completed."""
        texts = {str(key): str(value) for key, value in (tags or {}).items()}
        return self._with(_dataset=replace(self._dataset, name=name, description=description or "", tags=texts))

    def read_delimited_files(
        self,
        include_path: bool = False,
        separator: str = ",",
        header: Any = True,
        partition_format: Optional[str] = None,
        path_glob: Optional[str] = None,
        set_column_types: Any = None,
    ) -> "OutputTabularDatasetConfig":
        """The same, whose dataset is the table of its CSV files and the like, or of those that match ``path_glob``."""
        from runyard.sdk.tabular_factory import TabularDatasetFactory

        table = TabularDatasetFactory.from_delimited_files(
            "/", False, include_path, True, set_column_types, separator, header, partition_format
        )
        return self._as_table(table, path_glob)

    def read_parquet_files(
        self,
        include_path: bool = False,
        partition_format: Optional[str] = None,
        path_glob: Optional[str] = None,
        set_column_types: Any = None,
    ) -> "OutputTabularDatasetConfig":
        """The same, whose dataset is the table of its Parquet files, or of those that match ``path_glob``."""
        from runyard.sdk.tabular_factory import TabularDatasetFactory

        table = TabularDatasetFactory.from_parquet_files("/", False, include_path, set_column_types, partition_format)
        return self._as_table(table, path_glob)

    def _as_table(self, table: Any, pattern: Optional[str]) -> "OutputTabularDatasetConfig":
        """``table`` has the steps, and sources that stand for those to come."""
        found = object.__new__(OutputTabularDatasetConfig)
        found.__dict__.update(self.__dict__)
        found._dataset, found._pattern = replace(self._dataset, kind="tabular", steps=table._steps), pattern or ""
        return found

    def as_input(self, name: Optional[str] = None) -> DatasetConsumptionConfig:
        """What the run that was submitted with it has written, as another run's mounted input."""
        if not self._written:
            raise UserErrorException(f"Output {self.name!r} is written by no run yet; submit one with it first.")
        # Loaded only here: the two modules need each other.
        from runyard.sdk.file_dataset import make_file_dataset

        dataset = make_file_dataset(self._written[-1], validate=False)
        return DatasetConsumptionConfig(name or self.name, dataset, InputMode.MOUNT)

    def _with(self: T, **changes: Any) -> T:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.update(changes)
        return other

    def _output(self, workspace: Any) -> OutputSpec:
        datastore, path = self.destination or (workspace.get_default_datastore(), DEFAULT_PATH)
        check_belongs(f"The datastore {datastore.name!r}", datastore.workspace, workspace)
        return OutputSpec(
            name=_NOT_IN_NAME.sub("_", self.name),
            datastore=datastore.name,
            mode=self.mode,
            path=path,
            source=self.source,
            overwrite=self._overwrite,
            globs=self._globs,
            dataset=self._dataset,
            pattern=self._pattern,
        )

    def _named(self, name: str) -> "OutputFileDatasetConfig":
        return self._with(name=name)

    def _note_run(self, workspace: Any, spec: OutputSpec, run_id: str) -> None:
        self._written.append((AbstractAzureStorageDatastore(workspace, spec.datastore), output_path(spec, run_id)))

    def __str__(self) -> str:
        return "$AZUREML_DATAREFERENCE_" + _NOT_IN_NAME.sub("_", self.name)


class OutputTabularDatasetConfig(OutputFileDatasetConfig):
    """A folder that a run writes, and that becomes a table when the run has completed."""

    def keep_columns(self, columns: Any) -> "OutputTabularDatasetConfig":
        """The same, with these columns only."""
        return self._then(StepKind.KEEP, columns)

    def drop_columns(self, columns: Any) -> "OutputTabularDatasetConfig":
        """The same, without these columns."""
        return self._then(StepKind.DROP, columns)

    def as_input(self, name: Optional[str] = None) -> DatasetConsumptionConfig:
        """What the run that was submitted with it has written, as another run's table."""
        from runyard.sdk.tabular_dataset import TabularDataset

        files = super().as_input(name).dataset
        sources = [replace(one, path="/".join(filter(None, (one.path, self._pattern)))) for one in files._sources]
        return DatasetConsumptionConfig(
            name or self.name, TabularDataset(sources, files._workspace, steps=self._dataset.steps)
        )

    def _then(self, kind: str, columns: Any) -> "OutputTabularDatasetConfig":
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        steps = (*self._dataset.steps, Step(kind, columns=names))
        return self._with(_dataset=replace(self._dataset, steps=steps))


def _destination(asked: Any) -> Optional[Tuple[Any, str]]:
    """(datastore, path) of what v1 took: a datastore, a pair, a path of a datastore; None for the default."""
    if asked is None:
        return None
    if isinstance(asked, DataReference):
        return asked.datastore, asked.path_on_datastore
    datastore, path = asked if isinstance(asked, tuple) and len(asked) == 2 else (asked, DEFAULT_PATH)
    if not isinstance(datastore, AbstractAzureStorageDatastore):
        raise UserErrorException(f"An output's destination is a datastore and a path in it, not {asked!r}.")
    return datastore, str(path or DEFAULT_PATH)
