"""TabularDataset: files read as rows and columns, and steps on these; nothing is read until somebody asks for rows."""

from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from runyard.errors import DatasetTimestampMissingError, UserErrorException
from runyard.protocol.selection import Step, StepKind
from runyard.protocol.tables import check_columns, check_filter
from runyard.sdk.abstract_dataset import AbstractDataset
from runyard.sdk.tabular_expression import RecordFieldExpression, column

Columns = Union[str, List[str]]


class TabularDataset(AbstractDataset):
    """A table over files that stay where they are."""

    _kind = "tabular"

    def __getitem__(self, name: str) -> RecordFieldExpression:
        """A column, for conditions: ``dataset.filter(dataset['age'] > 3)``."""
        return column(name)

    @property
    def partition_keys(self) -> List[str]:
        """The columns that the files' paths hold."""
        from runyard.sdk.tabular_partitions import PartitionFormat
        from runyard.sdk.tabular_steps import reader_of

        text = reader_of(self._steps).partition_format
        return list(PartitionFormat(text).columns) if text else []

    @property
    def timestamp_columns(self) -> Tuple[Optional[str], Optional[str]]:
        """The columns of the rows' time and of their files' time; None where there is none."""
        for step in reversed(self._steps):
            if step.kind == StepKind.TIMESTAMPS and step.columns:
                return step.columns[0] or None, step.columns[1] or None
        return None, None

    def to_pandas_dataframe(self, on_error: str = "null", out_of_range_datetime: str = "null") -> Any:
        """All rows as a pandas DataFrame.

        ``on_error``: what becomes of a value that is not of its column's type: 'null', or 'fail' with file and row.
        ``out_of_range_datetime``: the same for times that pandas cannot hold, before 1678 and after 2261.
        """
        from runyard.sdk.tabular_pandas import to_pandas

        return to_pandas(self._scan(on_error).collect(), out_of_range_datetime)

    def to_dask_dataframe(
        self,
        sample_size: int = 10_000,
        dtypes: Any = None,
        on_error: str = "null",
        out_of_range_datetime: str = "null",
    ) -> Any:
        """The rows as a Dask DataFrame, over Parquet files that are written for it now."""
        from runyard.sdk.tabular_write import to_dask

        return to_dask(self._scan(on_error))

    def to_spark_dataframe(self) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException("There is no Spark here; read to_parquet_files() with the Spark session of your own.")

    def to_csv_files(self, separator: str = ",") -> Any:
        """The rows as a FileDataset of delimited files, which are written now: to the workspace's default datastore,
        or on this machine where the dataset belongs to no workspace or the caller is a run."""
        from runyard.sdk.tabular_write import to_files

        return to_files(self._scan("null"), self._workspace, "csv", separator)

    def to_parquet_files(self) -> Any:
        """As ``to_csv_files``, of Parquet."""
        from runyard.sdk.tabular_write import to_files

        return to_files(self._scan("null"), self._workspace, "parquet")

    def partition_by(
        self,
        partition_keys: Columns,
        target: Any,
        name: Optional[str] = None,
        show_progress: bool = True,
        partition_as_file_dataset: bool = False,
    ) -> Any:
        """Write the rows as Parquet below ``target`` (datastore, path), a folder for each value of the key columns;
        returns the dataset of these files, registered where ``name`` is given."""
        from runyard.sdk.tabular_write import partition_by

        keys = _names(partition_keys)
        return partition_by(self._scan("null"), keys, target, name, show_progress, partition_as_file_dataset)

    def get_partition_key_values(self, partition_keys: Optional[List[str]] = None) -> List[Dict[str, Any]]:
        """Each different combination of the values that the files' paths hold, of the files that filters leave."""
        keys = self.partition_keys if partition_keys is None else _names(partition_keys)
        unknown = [key for key in keys if key not in self.partition_keys]
        if unknown:
            raise UserErrorException(f"{unknown[0]!r} is no partition key; there are {self.partition_keys}.")
        found: List[Dict[str, Any]] = []
        for file in self._scan("null").files_left():
            values = {key: file.values[key] for key in keys}
            if values and values not in found:
                found.append(values)
        return found

    def filter(self, expression: RecordFieldExpression) -> "TabularDataset":
        """The rows that fulfil a condition such as ``(dataset['age'] > 3) & dataset['name'].starts_with('A')``.

        A missing value equals nothing, and is neither less nor greater than anything.
        """
        if not isinstance(expression, RecordFieldExpression):
            raise UserErrorException(
                f"A filter is a condition on columns such as dataset['age'] > 3, not {str(expression)[:60]!r}."
            )
        check_filter(expression._terms)
        return self._with(Step(StepKind.FILTER, terms=expression._terms))

    def keep_columns(self, columns: Columns, validate: bool = False) -> "TabularDataset":
        """Only these columns, in this order. ``validate``: look now whether they are there."""
        found = self._with(Step(StepKind.KEEP, columns=tuple(_names(columns))))
        if validate:
            found.take(1)._scan("null").settle()
        return found

    def drop_columns(self, columns: Columns) -> "TabularDataset":
        """All columns but these."""
        return self._with(Step(StepKind.DROP, columns=tuple(_names(columns))))

    def with_timestamp_columns(
        self,
        timestamp: Optional[str] = None,
        partition_timestamp: Optional[str] = None,
        validate: bool = False,
        **kwargs: Any,
    ) -> "TabularDataset":
        """Names the column of the rows' time, and that of their files', for ``time_before`` and the like."""
        timestamp = timestamp or kwargs.get("fine_grain_timestamp")
        partition_timestamp = partition_timestamp or kwargs.get("coarse_grain_timestamp")
        if timestamp is not None and timestamp == partition_timestamp:
            raise UserErrorException(f"The rows' time and their files' are two columns, not {timestamp!r} twice.")
        found = self._with(Step(StepKind.TIMESTAMPS, columns=(timestamp or "", partition_timestamp or "")))
        if validate:
            found.take(1)._scan("null").settle()
        return found

    def time_before(self, end_time: datetime, include_boundary: bool = True, validate: bool = True) -> "TabularDataset":
        """The rows up to a time; one without a zone is taken for UTC."""
        return self._in_time(None, end_time, include_boundary)

    def time_after(
        self, start_time: datetime, include_boundary: bool = True, validate: bool = True
    ) -> "TabularDataset":
        """The rows from a time on."""
        return self._in_time(start_time, None, include_boundary)

    def time_between(
        self, start_time: datetime, end_time: datetime, include_boundary: bool = True, validate: bool = True
    ) -> "TabularDataset":
        """The rows between two times."""
        return self._in_time(start_time, end_time, include_boundary)

    def time_recent(
        self, time_delta: timedelta, include_boundary: bool = True, validate: bool = True
    ) -> "TabularDataset":
        """The rows of the last ``time_delta`` before now: the start is kept with the dataset."""
        if not isinstance(time_delta, timedelta):
            raise UserErrorException(f"time_recent takes a timedelta, not {time_delta!r}.")
        try:
            start = datetime.now(timezone.utc).replace(tzinfo=None) - time_delta
        except OverflowError:
            raise UserErrorException(f"{time_delta!r} before now is no time; a time lies after the year 1.") from None
        return self._in_time(start, None, include_boundary)

    def _in_time(self, start: Any, end: Any, include_boundary: bool) -> "TabularDataset":
        for one in (start, end):
            if one is not None and not isinstance(one, datetime):
                raise UserErrorException(f"A time is a datetime, not {one!r}.")
        fine, coarse = self.timestamp_columns
        name = fine or coarse
        if name is None:
            raise DatasetTimestampMissingError(
                "The dataset has no timestamp column; name one by with_timestamp_columns(timestamp='...')."
            )
        at = column(name)
        conditions = []
        if start is not None:
            conditions.append(at >= start if include_boundary else at > start)
        if end is not None:
            conditions.append(at <= end if include_boundary else at < end)
        return self.filter(conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1])

    def _facts(self) -> List[Tuple[str, str]]:
        """What it is made of, for people: (what, text) of its reader, its steps and its files. Reads none of these."""
        from runyard.sdk.tabular_steps import reader_of

        reader = reader_of(self._steps)
        facts = [("format", reader.format)]
        facts += [("type", f"{name}: {one.kind}") for name, one in reader.types.items()]
        facts += [("partitions", reader.partition_format)] if reader.partition_format else []
        facts += [(step.kind, _step_text(step)) for step in self._steps[1:]]
        return facts + [("file", "/" + file.relative) for file in self._scan("null").files()]

    def _scan(self, on_error: str) -> Any:
        # Loaded only here: a dataset is passed on, registered and listed without its reader.
        from runyard.sdk.tabular_scan import TableScan

        return TableScan(self._sources, self._workspace, self._steps, on_error)


def _step_text(step: Step) -> str:
    if step.kind == StepKind.FILTER:
        return repr(RecordFieldExpression(step.terms or ()))
    if step.columns is not None:
        return ", ".join(name for name in step.columns if name)
    return (
        f"{step.probability:g}, seed {step.seed}" if step.kind in (StepKind.SAMPLE, StepKind.REST) else str(step.count)
    )


def _names(columns: Columns) -> List[str]:
    found: List[Any] = [columns] if isinstance(columns, str) or not isinstance(columns, Iterable) else list(columns)
    if not found or not all(isinstance(name, str) for name in found):
        raise UserErrorException(f"Columns are one or more names, not {columns!r}.")
    check_columns(found)
    return list(dict.fromkeys(found))
