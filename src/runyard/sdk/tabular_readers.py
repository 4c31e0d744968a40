"""Files of each format as blocks of rows, in order and within bounded memory; errors name the file and the row."""

import codecs
import csv
import io
import itertools
from datetime import datetime
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.tables import ENCODINGS, Header, Reader
from runyard.sdk.tabular_blocks import (
    BLOCK_CHARS,
    BLOCK_ROWS,
    CELLS_MAX,
    LINE_MAX,
    Block,
    TextBlock,
    TypedBlock,
    ValueBlock,
    check_width,
    parse_json,
)
from runyard.sdk.tabular_engine import arrow, arrow_csv, arrow_parquet, arrow_parts
from runyard.sdk.tabular_filter import Range

#: What a delimited file is read in, bytes: a row must fit.
PIECE_BYTES = 4 << 20

#: Is a column of that name wanted?
Wanted = Callable[[str], bool]
#: May a row group with these ranges of its columns hold rows that are wanted?
MayMatch = Callable[[Dict[str, Range]], bool]


class DelimitedFiles:
    """Reads one delimited file after the other; keeps the first one's header."""

    def __init__(self, reader: Reader, wanted: Wanted) -> None:
        self._reader = reader
        self._wanted = wanted
        self._encoding = ENCODINGS[reader.encoding]
        self._first: Optional[List[str]] = None
        self._first_label = ""
        #: Every column of any file so far, wanted or not.
        self.seen: Dict[str, None] = {}

    def blocks(self, path: str, label: str) -> Iterator[Block]:
        """The file's blocks; none for an empty file, one without rows for a header alone."""
        try:
            head, skipped = self._head(path, label)
        except OSError as error:
            raise UserErrorException(f"{label} cannot be read: {error}.") from None
        if head is None:
            return
        check_width(len(head), label)
        names = self._names(head, label)
        has_header = self._reader.header in (Header.SAME, Header.COMBINE) or (
            self._reader.header == Header.FIRST and self._first_label == label
        )
        self.seen.update(dict.fromkeys(names))
        try:
            yield from self._read(path, names, skipped + 1 if has_header else 0)
        except (arrow().ArrowInvalid, UnicodeError, OSError, EOFError) as error:
            raise self._told(error, path, label, len(names), skipped + 1 if has_header else 0) from None

    def _read(self, path: str, names: List[str], skipped: int) -> Iterator[Block]:
        pa = arrow()
        reads = arrow_csv()
        places = [f"c{number}" for number in range(len(names))]
        wanted = [place for place, name in zip(places, names) if self._wanted(name)]
        # A row without a column would be no row: of a table of none, one is read to count.
        read = wanted or places[:1]
        streamed = reads.open_csv(
            pa.input_stream(path, compression="detect"),
            read_options=reads.ReadOptions(
                column_names=places, skip_rows_after_names=skipped, block_size=PIECE_BYTES, encoding=self._encoding
            ),
            parse_options=reads.ParseOptions(delimiter=self._reader.separator, newlines_in_values=True),
            convert_options=reads.ConvertOptions(
                include_columns=read,
                column_types={place: pa.string() for place in read},
                null_values=[""],
                strings_can_be_null=not self._reader.empty_as_string,
            ),
        )
        shown = [name for name in names if self._wanted(name)]
        row, is_first = 0, True
        for batch in streamed:
            if batch.num_rows or is_first:
                columns = dict(zip(shown, batch.columns))
                yield TextBlock(row, batch.num_rows, columns)
            row += batch.num_rows
            is_first = False
        if is_first:
            yield TextBlock(0, 0, {name: pa.array([], pa.string()) for name in shown})

    def _head(self, path: str, label: str) -> Tuple[Optional[List[str]], int]:
        """(fields of the first row that is not empty, empty rows before it); None for a file without one."""
        with arrow().input_stream(path, compression="detect") as stream:
            data = stream.read(PIECE_BYTES)
        try:
            text = codecs.getincrementaldecoder(self._encoding)("strict").decode(data)
        except UnicodeError:
            raise self._not_encoded(label) from None
        rows = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=self._reader.separator)
        try:
            for number, fields in enumerate(rows):
                if fields:
                    return fields, number
        except csv.Error as error:
            raise UserErrorException(f"{label}: its first row cannot be read: {error}.") from None
        return None, 0

    def _names(self, head: List[str], label: str) -> List[str]:
        """The columns' names, by position."""
        how = self._reader.header
        if how == Header.NONE:
            return [f"Column{number + 1}" for number in range(len(head))]
        if how == Header.FIRST and self._first is not None:
            return self._first
        names = distinct_names(head)
        if self._first is None:
            self._first, self._first_label = names, label
        elif how == Header.SAME and sorted(names) != sorted(self._first):
            other = sorted(set(names) ^ set(self._first))[:5]
            raise UserErrorException(
                f"The columns of {label} are not those of {self._first_label} ({', '.join(map(repr, other))} differ); "
                "pass header=PromoteHeadersBehavior.COMBINE_ALL_FILES_HEADERS to have all of them."
            )
        return names

    def _told(self, error: Exception, path: str, label: str, width: int, skipped: int) -> UserErrorException:
        """The sentence for what the reader said; where a row is to blame it is looked for."""
        text = str(error)
        if isinstance(error, UnicodeError) or "UTF8" in text or "codec" in text:
            return self._not_encoded(label)
        if "straddling" in text or "block boundar" in text:
            return UserErrorException(
                f"{label} has a row of more than {PIECE_BYTES >> 20} MiB, or a quote that is never closed."
            )
        if "Expected" in text and "columns" in text:
            found = self._uneven_row(path, width, skipped)
            if found is not None:
                return UserErrorException(
                    f"Row {found[0]} of {label} has {found[1]} fields where {width} are due (its header not counted)."
                )
        return UserErrorException(f"{label} cannot be read as a delimited file: {text.rstrip('.')[:300]}.")

    def _uneven_row(self, path: str, width: int, skipped: int) -> Optional[Tuple[int, int]]:
        """(number from 1, fields) of the first row that has not as many fields as it should."""
        with arrow().input_stream(path, compression="detect") as stream:
            text = io.TextIOWrapper(io.BufferedReader(stream), self._encoding, "replace", newline="")
            number = 0
            try:
                for fields in itertools.islice(csv.reader(text, delimiter=self._reader.separator), skipped, None):
                    number += bool(fields)
                    if fields and len(fields) != width:
                        return number, len(fields)
            except csv.Error:
                pass
        return None

    def _not_encoded(self, label: str) -> UserErrorException:
        return UserErrorException(
            f"{label} is not text of the encoding {self._reader.encoding!r}; name its own, as encoding='latin1'."
        )


def distinct_names(fields: List[str]) -> List[str]:
    """Names of columns, each once: 'a', 'a.1'; one without a name is called by its place."""
    #: How often a name was taken: the next number to try.
    taken: Dict[str, int] = {}
    found = []
    for number, field in enumerate(fields):
        name = stem = field.strip() or f"Column{number + 1}"
        while name in taken:
            taken[stem] += 1
            name = f"{stem}.{taken[stem]}"
        taken[name] = 0
        found.append(name)
    return found


class ParquetFiles:
    """Reads Parquet: only the columns that are wanted, only the row groups that may hold a row that is."""

    def __init__(self, reader: Reader, wanted: Wanted, may_match: MayMatch) -> None:
        self._wanted = wanted
        self._may_match = may_match
        self.seen: Dict[str, None] = {}

    def blocks(self, path: str, label: str) -> Iterator[Block]:
        """The file's blocks; one without rows where no row group is left."""
        pa = arrow()
        try:
            with open(path, "rb") as stream:
                file = arrow_parquet().ParquetFile(stream)
                names = list(file.schema_arrow.names)
                check_width(len(names), label)
                if len(set(names)) < len(names):
                    twice = next(name for name in names if names.count(name) > 1)
                    raise UserErrorException(
                        f"{label} has the column {twice!r} more than once; a table has each name once."
                    )
                self.seen.update(dict.fromkeys(names))
                yield from self._read(file, [name for name in names if self._wanted(name)])
        except (pa.ArrowException, OSError) as error:
            raise UserErrorException(
                f"{label} cannot be read as a Parquet file: {str(error).rstrip('.')[:300]}."
            ) from None

    def _read(self, file: Any, names: List[str]) -> Iterator[Block]:
        pa = arrow()
        first = 0
        schema = file.schema_arrow
        yield TypedBlock(0, 0, {name: _plain(pa.array([], schema.field(name).type)) for name in names})
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            row, first = first, first + facts.num_rows
            if not self._may_match(_ranges(facts)):
                continue
            if not names:
                yield TypedBlock(row, facts.num_rows, {})
                continue
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, row_groups=[group], columns=names):
                columns = dict(zip(batch.schema.names, batch.columns))
                yield TypedBlock(row, batch.num_rows, {name: _plain(columns[name]) for name in names})
                row += batch.num_rows


def _plain(values: Any) -> Any:
    """Without a dictionary, and text as text of one kind."""
    pa, pc = arrow_parts()
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    return pc.cast(values, pa.string()) if pa.types.is_large_string(values.type) else values


def _ranges(group: Any) -> Dict[str, Range]:
    """Least and greatest value of each column of a row group, as far as the file says."""
    found: Dict[str, Range] = {}
    for number in range(group.num_columns):
        column = group.column(number)
        facts = column.statistics
        if facts is None or not facts.has_min_max:
            continue
        least, greatest = facts.min, facts.max
        # A text's bounds may be cut; one that is not a number bounds nothing; a time may have a zone of its own.
        is_number = isinstance(least, (int, float)) and isinstance(greatest, (int, float))
        is_time = isinstance(least, datetime) and least.tzinfo is None
        if (is_number or is_time) and least <= greatest:
            found[column.path_in_schema] = (least, greatest)
    return found


class JsonLinesFiles:
    """Reads JSON, an object a line."""

    def __init__(self, reader: Reader, wanted: Wanted) -> None:
        self._drops = reader.invalid_lines == "drop"
        self._wanted = wanted
        self._encoding = ENCODINGS[reader.encoding]
        self._label = self._spelling = reader.encoding
        self.seen: Dict[str, None] = {}

    def blocks(self, path: str, label: str) -> Iterator[Block]:
        """The file's blocks; a nested value is its JSON text."""
        self._label = label
        try:
            with arrow().input_stream(path, compression="detect") as stream:
                text = io.TextIOWrapper(io.BufferedReader(stream), self._encoding, newline="\n")
                yield from self._blocks(text)
        except (UnicodeError, OSError, EOFError) as error:
            raise UserErrorException(f"{label} cannot be read as {self._spelling} text: {error}.") from None

    def _blocks(self, text: Any) -> Iterator[Block]:
        rows: List[Dict[str, Any]] = []
        names: Dict[str, None] = {}
        first = chars = 0
        for number, line in enumerate(iter(lambda: text.readline(LINE_MAX + 1), ""), 1):
            found = self._parsed(line, number)
            if found is None:
                continue
            names.update(dict.fromkeys(found))
            rows.append(found)
            check_width(len(names), self._label)
            chars += len(line)
            if len(rows) >= BLOCK_ROWS or chars >= BLOCK_CHARS or len(rows) * len(names) > CELLS_MAX:
                yield self._block(first, rows, names)
                first, chars, rows, names = first + len(rows), 0, [], {}
        if rows:
            yield self._block(first, rows, names)

    def _block(self, first: int, rows: List[Dict[str, Any]], names: Dict[str, None]) -> Block:
        self.seen.update(names)
        check_width(len(self.seen), self._label)
        columns = {name: [row.get(name) for row in rows] for name in names if self._wanted(name)}
        return ValueBlock(first, len(rows), columns)

    def _parsed(self, line: str, number: int) -> Optional[Dict[str, Any]]:
        """A line's object; None for an empty line, or a wrong one that is to be dropped."""
        bare = line.lstrip("\ufeff").strip() if number == 1 else line.strip()
        if not bare:
            return None
        try:
            if len(line) > LINE_MAX:
                raise ValueError(f"it has more than {LINE_MAX >> 20} million characters")
            return parse_json(bare)
        except ValueError as error:
            if self._drops and len(line) <= LINE_MAX:
                return None
            raise UserErrorException(
                f"Line {number} of {self._label} is no JSON object: {error}; invalid_lines='drop' leaves such out."
            ) from None
