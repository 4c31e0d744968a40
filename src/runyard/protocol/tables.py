"""How a dataset's files are read as a table, and which rows a filter keeps: data that is stored with the dataset. Pure.

A filter is a list of terms in postfix order, so that neither its depth nor its text can harm who reads it.
"""

from dataclasses import field
from typing import Dict, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.record import record

#: Most terms of a filter, columns that a step or reader names, and characters of one text.
TERMS_MAX, COLUMNS_MAX, TEXT_MAX = 1_000, 10_000, 4_096


class TableFormat:
    """What the files are."""

    DELIMITED = "delimited"
    PARQUET = "parquet"
    JSON_LINES = "json_lines"


class Header:
    """Which files begin with the columns' names (v1's PromoteHeadersBehavior)."""

    NONE = "none"
    #: The first file only; the others follow its columns by position.
    FIRST = "first"
    #: Every file has its own; a column is in the table if one file has it.
    COMBINE = "combine"
    #: Every file has the same.
    SAME = "same"


class Kind:
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "flag"
    #: A time in UTC.
    TIME = "time"


@record
class ColumnType:
    """What a column is to be read as."""

    kind: str
    #: time: strptime formats to try, in order; none: found out from the data.
    formats: Tuple[str, ...] = ()
    decimal_mark: str = "."


@record
class Reader:
    """How files become rows."""

    format: str
    separator: str = ","
    header: str = Header.SAME
    #: One of ENCODINGS.
    encoding: str = "utf8"
    #: Are the columns' types found out from their text? Else it stays text.
    infer_types: bool = True
    types: Dict[str, ColumnType] = field(default_factory=dict)
    #: Is there a column 'Path' of the file's path?
    include_path: bool = False
    #: Columns from the paths, as '{region}/{day:yyyy/MM/dd}/*.csv'.
    partition_format: Optional[str] = None
    empty_as_string: bool = False
    #: May a value in quotes hold line breaks? v1's switch: recorded as it was asked, and read by nothing of ours, since
    #: such values are read right in any case.
    multi_line: bool = False
    #: json_lines: 'error' or 'drop'.
    invalid_lines: str = "error"


@record
class Term:
    """One term of a filter: a column or a value to put on the stack, or an operation on what is on top of it."""

    #: 'column', one of VALUES or one of OPERATIONS.
    op: str
    #: The column's name or the value: a number as Python writes it, 'true' or 'false', UTC as 2020-01-02T03:04:05.
    value: Optional[str] = None


#: v1's names of encodings, and Python's.
ENCODINGS: Dict[str, str] = {
    "utf8": "utf-8", "utf8bom": "utf-8", "iso88591": "iso-8859-1", "latin1": "iso-8859-1", "ascii": "ascii",
    "windows1252": "cp1252", "utf16": "utf-16", "utf32": "utf-32",
}  # fmt: skip
#: Values by what they are.
VALUES = frozenset((Kind.TEXT, Kind.INTEGER, Kind.NUMBER, Kind.FLAG, Kind.TIME))
#: Operations, and how many values each takes from the stack. Each puts one back.
OPERATIONS: Dict[str, int] = {
    "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "and": 2, "or": 2, "not": 1, "is_null": 1,
    "add": 2, "sub": 2, "mul": 2, "div": 2,
    "starts_with": 2, "ends_with": 2, "contains": 2, "lower": 1, "upper": 1, "length": 1,
}  # fmt: skip
_FORMATS = (TableFormat.DELIMITED, TableFormat.PARQUET, TableFormat.JSON_LINES)
_HEADERS = (Header.NONE, Header.FIRST, Header.COMBINE, Header.SAME)


def check_reader(reader: Optional[Reader]) -> None:
    """UserErrorException for a reader that cannot be."""
    if reader is None or reader.format not in _FORMATS:
        raise UserErrorException(f"A table is read from files of {', '.join(_FORMATS)}.")
    if len(reader.separator) != 1 or reader.separator in '\r\n"\\' or not reader.separator.isascii():
        raise UserErrorException(f"A separator is one ASCII character, no quote or line break: {reader.separator!r}.")
    if reader.header not in _HEADERS or reader.invalid_lines not in ("error", "drop"):
        raise UserErrorException("A reader's header or invalid_lines is none that there is.")
    if reader.encoding not in ENCODINGS:
        raise UserErrorException(f"{reader.encoding[:40]!r} is no encoding of v1: {', '.join(ENCODINGS)}.")
    check_columns(list(reader.types))
    if len(reader.partition_format or "") > TEXT_MAX:
        raise UserErrorException(f"A partition format has at most {TEXT_MAX} characters.")
    for name, one in reader.types.items():
        if one.kind not in VALUES or one.decimal_mark not in (".", ","):
            raise UserErrorException(f"Column {name!r} has a type that there is not: {one.kind[:40]!r}.")
        if len(one.formats) > 100 or any(len(text) > 200 for text in one.formats):
            raise UserErrorException(f"Column {name!r} has more than 100 formats, or one of more than 200 characters.")


def check_columns(names: Sequence[str]) -> None:
    """UserErrorException for too many names, or for too long ones."""
    if len(names) > COLUMNS_MAX:
        raise UserErrorException(f"A step names at most {COLUMNS_MAX} columns, not {len(names)}.")
    if any(len(name) > TEXT_MAX for name in names):
        raise UserErrorException(f"A column's name has at most {TEXT_MAX} characters.")


def check_filter(terms: Sequence[Term]) -> None:
    """UserErrorException for terms that are no condition."""
    if len(terms) > TERMS_MAX:
        raise UserErrorException(f"A filter has at most {TERMS_MAX} terms, not {len(terms)}.")
    depth = 0
    for term in terms:
        if term.op == "column" or term.op in VALUES:
            if term.value is None or len(term.value) > TEXT_MAX or not _reads(term):
                raise UserErrorException(f"A filter's {term.op} cannot be {str(term.value)[:60]!r}.")
            depth += 1
        elif term.op in OPERATIONS and depth >= OPERATIONS[term.op]:
            depth -= OPERATIONS[term.op] - 1
        else:
            raise UserErrorException(f"A filter cannot have {term.op[:40]!r} here.")
    if depth != 1:
        raise UserErrorException("A filter is one condition.")


def columns_of(terms: Sequence[Term]) -> Tuple[str, ...]:
    """The columns that a filter names."""
    return tuple(str(term.value) for term in terms if term.op == "column")


def _reads(term: Term) -> bool:
    text = str(term.value)
    try:
        if term.op == Kind.INTEGER:
            return -(2**63) <= int(text[:24]) < 2**63 and len(text) <= 24
        if term.op == Kind.NUMBER:
            float(text)
        if term.op == Kind.TIME:
            return len(text) <= 40 and text[:4].isdigit()
    except ValueError:
        return False
    return term.op != Kind.FLAG or text in ("true", "false")
