"""TabularDatasetFactory: ``Dataset.Tabular``."""

from typing import Any, Dict, Optional

from runyard.errors import UserErrorException
from runyard.protocol.selection import Step, StepKind
from runyard.protocol.tables import Reader, TableFormat, check_reader
from runyard.sdk.file_dataset import make_file_dataset
from runyard.sdk.tabular_dataset import TabularDataset
from runyard.sdk.tabular_partitions import PartitionFormat
from runyard.sdk.tabular_types import PromoteHeadersBehavior, column_types, header_of


class TabularDatasetFactory:
    """Makes tables of files. Paths are those of ``Dataset.File.from_files``: addresses, datastore paths, patterns."""

    @staticmethod
    def from_delimited_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        infer_column_types: bool = True,
        set_column_types: Any = None,
        separator: str = ",",
        header: Any = True,
        partition_format: Optional[str] = None,
        support_multi_line: bool = False,
        empty_as_string: bool = False,
        encoding: str = "utf8",
    ) -> TabularDataset:
        """A table of CSV files and the like. Types are found out, when it is read, from all values of a column.

        ``validate`` looks whether local and datastore files are there. Line breaks in quotes are read right with and
        without ``support_multi_line``.
        """
        reader = Reader(
            TableFormat.DELIMITED,
            separator=separator,
            header=header_of(header),
            encoding=encoding,
            infer_types=infer_column_types,
            types=column_types(set_column_types),
            include_path=include_path,
            partition_format=partition_format,
            empty_as_string=empty_as_string,
            multi_line=support_multi_line,
        )
        return make_table(path, reader, validate)

    @staticmethod
    def from_parquet_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Any = None,
        partition_format: Optional[str] = None,
    ) -> TabularDataset:
        """A table of Parquet files, whose columns have their types already."""
        reader = Reader(
            TableFormat.PARQUET,
            types=column_types(set_column_types),
            include_path=include_path,
            partition_format=partition_format,
        )
        return make_table(path, reader, validate)

    @staticmethod
    def from_json_lines_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Any = None,
        partition_format: Optional[str] = None,
        invalid_lines: str = "error",
        encoding: str = "utf8",
    ) -> TabularDataset:
        """A table of files with a JSON object a line; nested values become their JSON text.

        ``invalid_lines``: 'error', or 'drop' to leave out lines that are no object.
        """
        if invalid_lines not in ("error", "drop"):
            raise UserErrorException(f"invalid_lines is 'error' or 'drop', not {invalid_lines!r}.")
        reader = Reader(
            TableFormat.JSON_LINES,
            encoding=encoding,
            types=column_types(set_column_types),
            include_path=include_path,
            partition_format=partition_format,
            invalid_lines=invalid_lines,
        )
        return make_table(path, reader, validate)

    @staticmethod
    def from_sql_query(
        query: Any, validate: bool = True, set_column_types: Any = None, query_timeout: int = 30
    ) -> TabularDataset:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(
            "Databases are not read here: read the query with pandas.read_sql and keep its rows by "
            "Dataset.Tabular.register_pandas_dataframe(dataframe, target, name)."
        )

    @staticmethod
    def register_pandas_dataframe(
        dataframe: Any,
        target: Any,
        name: str,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        show_progress: bool = True,
        row_group_size: Optional[int] = None,
        make_target_path_unique: bool = True,
    ) -> TabularDataset:
        """Write a DataFrame, without its index, as Parquet to ``target`` (a datastore, or a datastore and a path), and
        register it as the next version of ``name``. ``row_group_size`` in rows."""
        from runyard.sdk.tabular_write import store_dataframe

        path = store_dataframe(dataframe, target, show_progress, row_group_size, make_target_path_unique)
        found = TabularDatasetFactory.from_parquet_files(path)
        return found.register(found._workspace, name, description, tags, create_new_version=True)

    @staticmethod
    def register_dask_dataframe(
        dataframe: Any,
        target: Any,
        name: str,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        show_progress: bool = True,
    ) -> TabularDataset:
        """As ``register_pandas_dataframe``, of a Dask DataFrame, which is computed for it."""
        register = TabularDatasetFactory.register_pandas_dataframe
        return register(dataframe.compute(), target, name, description, tags, show_progress)

    @staticmethod
    def register_spark_dataframe(
        dataframe: Any,
        target: Any,
        name: str,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        show_progress: bool = True,
    ) -> TabularDataset:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(
            "There is no Spark here: let the DataFrame write Parquet, upload it, and use from_parquet_files()."
        )


def make_table(path: Any, reader: Reader, validate: bool) -> TabularDataset:
    """The table of these paths; UserErrorException for a reader that cannot be, or files that are not there."""
    check_reader(reader)
    if reader.partition_format is not None:
        PartitionFormat(reader.partition_format)
    files = make_file_dataset(path, validate)
    return TabularDataset(files._sources, files._workspace, steps=(Step(StepKind.READ, reader=reader),))


def guessed_reader(path: Any, include_path: bool, partition_format: Optional[str]) -> Reader:
    """The reader for files by the ending of the first one's name; delimited where it tells nothing."""
    first = path[0] if isinstance(path, list) and path else path
    text = str(first[1] if isinstance(first, tuple) else getattr(first, "path_on_datastore", first)).lower()
    text = text.split("?", 1)[0]
    for ending in (".gz", ".bz2"):
        text = text[: -len(ending)] if text.endswith(ending) else text
    common: Any = {"include_path": include_path, "partition_format": partition_format}
    if text.endswith((".parquet", ".pq")):
        return Reader(TableFormat.PARQUET, **common)
    if text.endswith((".json", ".jsonl", ".ndjson")):
        return Reader(TableFormat.JSON_LINES, **common)
    separator = "\t" if text.endswith((".tsv", ".tab")) else ","
    header = header_of(PromoteHeadersBehavior.ALL_FILES_HAVE_SAME_HEADERS)
    return Reader(TableFormat.DELIMITED, separator=separator, header=header, **common)
