"""Reads a table: its files in order, block after block, each column as what it is, the steps on top.

What a column of text holds is known only when its last value has been seen. So a reading goes on with what the values
so far were, and starts again with what it has learned where a later one did not fit.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.datasets import Source
from runyard.protocol.selection import Step
from runyard.protocol.tables import ColumnType, Kind, TableFormat
from runyard.sdk.tabular_blocks import Block
from runyard.sdk.tabular_columns import arrow_type, convert, widest
from runyard.sdk.tabular_engine import arrow_parts
from runyard.sdk.tabular_files import PATH_COLUMN, TableFile, constant, on_disk, table_files
from runyard.sdk.tabular_filter import Range, may_match
from runyard.sdk.tabular_memory import watched
from runyard.sdk.tabular_partitions import PartitionFormat
from runyard.sdk.tabular_readers import DelimitedFiles, JsonLinesFiles, ParquetFiles
from runyard.sdk.tabular_steps import (
    Rows,
    Steps,
    check_named,
    check_steps_names,
    early_filters,
    final_order,
    is_wanted,
    reader_of,
)

#: Columns of a block are converted side by side, by so many threads, if it has so many rows.
THREADS_MAX, THREAD_ROWS = 4, 5_000
#: Readings after which all rows are looked at once for their types, without the steps.
TRIES_MAX = 3


class TableScan:
    """One way to read a dataset of kind 'tabular'; ``on_error``: 'null' or 'fail', for values that do not fit the type
    that was asked for."""

    def __init__(
        self, sources: Sequence[Source], workspace: Any, steps: Sequence[Step], on_error: str = "null"
    ) -> None:
        if on_error not in ("null", "fail"):
            raise UserErrorException(f"on_error is 'null' or 'fail', not {on_error!r}.")
        self._sources = sources
        self._workspace = workspace
        self._reader = reader_of(steps)
        self._steps = list(steps[1:])
        self._all_steps = steps
        self._columns = _Columns(self._reader.types, self._reader.infer_types, on_error == "fail")
        self._files: Optional[List[TableFile]] = None
        self._is_settled = False
        #: Was it a step that ended the reading, and not a file?
        self._is_refused = False
        self._threads = ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1), "runyard-table")

    def files(self) -> List[TableFile]:
        """The table's files."""
        if not self._files:
            reader = self._reader
            self._files = table_files(self._sources, self._workspace, reader.partition_format, reader.include_path)
            if not self._files:
                raise UserErrorException("The dataset has no file to read.")
        return self._files

    def files_left(self) -> List[TableFile]:
        """The files that the filters on what their paths hold leave."""
        early = early_filters(self._steps)
        return [file for file in self.files() if _may_hold(file, early)]

    def collect(self) -> Any:
        """All rows, as an Arrow table."""
        pa, _ = arrow_parts()
        kept: List[Rows] = []
        for _ in range(TRIES_MAX):
            kept = []
            if self._try(kept):
                break
        else:
            self._look_at_all()
            kept = list(watched(self._pass(self._steps)))
        fields = self._fields()
        batches = [self._batch(rows, fields) for rows in _released(kept)]
        return pa.Table.from_batches(batches, self._schema(fields))

    def stream(self) -> Iterator[Any]:
        """All rows as record batches of one schema, within bounded memory. Read twice where types must be found out."""
        self.settle()
        fields = self._fields()
        for rows in self._pass(self._steps):
            if rows.count:
                yield self._batch(rows, fields)

    def settle(self) -> Any:
        """Find out the types of all columns, once; returns the Arrow schema."""
        if not self._is_settled and not any(self._try(None) for _ in range(TRIES_MAX)):
            self._look_at_all()
        self._is_settled = True
        return self._schema(self._fields())

    def _try(self, kept: Optional[List[Rows]]) -> bool:
        """Read with what is known of the types; False if a value did not fit them after rows had been passed on."""
        self._columns.is_stale = False
        try:
            passed = self._pass(self._steps)
            for rows in passed if kept is None else watched(passed):
                if self._columns.is_stale and kept:
                    kept.clear()
                elif kept is not None:
                    kept.append(rows)
        except UserErrorException:
            # A comparison with a number, say, before the column turned out to be text: only the whole can tell.
            if self._columns.is_certain or not self._is_refused:
                raise
            self._look_at_all()
            self._columns.is_stale = True
            return False
        return not self._columns.is_stale

    def _look_at_all(self) -> None:
        for _ in self._pass([]):
            pass
        self._columns.is_certain = True
        self._columns.is_stale = False

    def _pass(self, steps: Sequence[Step]) -> Iterator[Rows]:
        """Each block's rows after ``steps``; those without a row too."""
        under_way = Steps([self._all_steps[0], *steps])
        reader = self._format_reader(steps)
        early = early_filters(steps)
        is_first = True
        for file in self.files():
            if not is_first and not _may_hold(file, early):
                continue
            is_first = False
            with on_disk(file, self._workspace) as path:
                for block in reader.blocks(path, file.label):
                    rows = self._rows(block, file, steps)
                    self._is_refused = True
                    under_way.carry_out(rows)
                    self._is_refused = False
                    yield rows
                    if under_way.is_done():
                        break
            if under_way.is_done():
                break
        self._check_names(reader.seen, steps)

    def _format_reader(self, steps: Sequence[Step]) -> Any:
        def wanted(name: str) -> bool:
            return is_wanted(name, steps)

        def matches(known: Dict[str, Range]) -> bool:
            return all(may_match(step.terms or (), known) for step in early_filters(steps))

        if self._reader.format == TableFormat.PARQUET:
            return ParquetFiles(self._reader, wanted, matches)
        if self._reader.format == TableFormat.JSON_LINES:
            return JsonLinesFiles(self._reader, wanted)
        return DelimitedFiles(self._reader, wanted)

    def _rows(self, block: Block, file: TableFile, steps: Sequence[Step]) -> Rows:
        columns = {}
        for name, value in file.values.items():
            self._columns.kinds[name] = Kind.TIME if isinstance(value, datetime) else Kind.TEXT
            if is_wanted(name, steps):
                columns[name] = constant(value, block.count, self._columns.kinds[name])
        names = [name for name in block.names if name not in file.values]
        for name in names:
            self._columns.kinds.setdefault(name, None)
        run = map if block.count < THREAD_ROWS else self._threads.map
        columns.update(zip(names, run(lambda name: self._columns.values(block, name, file.label), names)))
        return Rows(file.relative, columns, block.first_row, block.count)

    def _check_names(self, seen: Dict[str, None], steps: Sequence[Step]) -> None:
        for name in seen:
            self._columns.kinds.setdefault(name, None)
        there = list(self._columns.kinds)
        check_named("set_column_types", list(self._reader.types), there)
        check_steps_names(steps, there)

    def _fields(self) -> List[Tuple[str, Any]]:
        """(column, Arrow type) of what the steps leave: the path first, the partitions' columns last."""
        kinds = self._columns.kinds
        ends = PartitionFormat(self._reader.partition_format).columns if self._reader.partition_format else {}
        order = [name for name in kinds if name == PATH_COLUMN and self._reader.include_path]
        order += [name for name in kinds if name not in ends and name not in order] + [n for n in ends if n in kinds]
        return [(name, arrow_type(kinds[name])) for name in final_order(order, self._steps)]

    def _schema(self, fields: List[Tuple[str, Any]]) -> Any:
        pa, _ = arrow_parts()
        return pa.schema(fields)

    def _batch(self, rows: Rows, fields: List[Tuple[str, Any]]) -> Any:
        pa, pc = arrow_parts()
        arrays = []
        for name, kind in fields:
            values = rows.columns.get(name)
            if values is None or pa.types.is_null(values.type):
                values = pa.nulls(rows.count, kind)
            arrays.append(values if values.type == kind else pc.cast(values, kind))
        if not arrays:
            # Rows without a column: Arrow counts them by a structure of none.
            return pa.RecordBatch.from_arrays([], schema=self._schema([]))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema(fields))


class _Columns:
    """What each column holds, as far as its values have been seen."""

    def __init__(self, types: Dict[str, ColumnType], infers: bool, fails: bool) -> None:
        self._types = types
        self._infers = infers
        self._fails = fails
        self._guessed: Dict[str, Any] = {}
        #: In the order in which they came.
        self.kinds: Dict[str, Any] = {}
        #: Did a column change after some of its values had been passed on?
        self.is_stale = False
        #: Have all rows been looked at?
        self.is_certain = False

    def values(self, block: Block, name: str, label: str) -> Any:
        """A column of a block as what it holds."""
        pa, _ = arrow_parts()
        wanted = self._types.get(name)
        if wanted is not None:
            self.kinds[name] = wanted.kind
            return self._converted(block, name, wanted, label)
        kind = self.kinds.get(name)
        if kind is not None:
            found = block.fit(name, kind)
            if found is not None:
                return found
        natural = self._natural(block, name)
        if natural is None:
            self.kinds.setdefault(name, None)
            return pa.nulls(block.count, arrow_type(kind) if kind is not None else None)
        wider = widest(kind, natural, name, label)
        self.is_stale = self.is_stale or kind is not None
        self.kinds[name] = wider
        found = block.fit(name, wider)
        if found is None and isinstance(wider, str):
            # Whole numbers that no float holds, among fractions.
            self.kinds[name] = Kind.TEXT
            found = block.fit(name, Kind.TEXT)
        if found is None:
            raise UserErrorException(f"Column {name!r} of {label} holds what is no {wider}.")
        return found

    def _natural(self, block: Block, name: str) -> Any:
        found = block.natural(name)
        return found if found is None or self._infers else Kind.TEXT

    def _converted(self, block: Block, name: str, wanted: ColumnType, label: str) -> Any:
        _, pc = arrow_parts()
        before = block.source(name)
        found = convert(before, wanted, self._guessed, name)
        if self._fails and found.null_count > before.null_count:
            gone = pc.and_(pc.is_null(found), pc.is_valid(before)).to_pylist()
            values = before.to_pylist()
            for place, is_gone in enumerate(gone):
                if is_gone and str(values[place]).strip():
                    raise UserErrorException(
                        f"Row {block.first_row + place + 1} of {label}: column {name!r} holds "
                        f"{str(values[place])[:60]!r}, which is no {wanted.kind}."
                    )
        return found


def _may_hold(file: TableFile, filters: Sequence[Step]) -> bool:
    known: Dict[str, Range] = {name: (value, value) for name, value in file.values.items()}
    return all(may_match(step.terms or (), known) for step in filters)


def _released(rows: List[Rows]) -> Iterator[Rows]:
    """Each of them, kept no longer than it is needed."""
    rows.reverse()
    while rows:
        yield rows.pop()
