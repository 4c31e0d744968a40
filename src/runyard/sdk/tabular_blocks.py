"""Rows as they come from a file: blocks of a bounded size whose columns are still what the file says."""

import json
from typing import Any, Dict, List, Optional, Sequence

from runyard.errors import UserErrorException
from runyard.protocol.tables import Kind
from runyard.sdk.tabular_columns import arrow_type, fit_text, json_text, natural_kind
from runyard.sdk.tabular_engine import arrow_parts


class Block:
    """Some rows of a file. ``natural`` and ``fit`` say what a column's values are; None is a kind of no values."""

    def __init__(self, first_row: int, count: int, names: Sequence[str]) -> None:
        #: Number of the first row in its file, from 0, the header not counted.
        self.first_row = first_row
        self.count = count
        self.names = names

    def natural(self, name: str) -> Any:
        """The kind that holds all values of the column; None if none is there."""
        raise NotImplementedError

    def fit(self, name: str, kind: Any) -> Optional[Any]:
        """The column as that kind, if nothing is lost by it; else None."""
        raise NotImplementedError

    def source(self, name: str) -> Any:
        """The column as the file has it."""
        raise NotImplementedError


class TextBlock(Block):
    """Columns of text, as of a delimited file."""

    def __init__(self, first_row: int, count: int, columns: Dict[str, Any]) -> None:
        super().__init__(first_row, count, list(columns))
        self._columns = columns

    def natural(self, name: str) -> Any:
        return natural_kind(self._columns[name])

    def fit(self, name: str, kind: Any) -> Optional[Any]:
        return fit_text(self._columns[name], kind)

    def source(self, name: str) -> Any:
        return self._columns[name]


class TypedBlock(Block):
    """Columns that have a type, as of a Parquet file."""

    def __init__(self, first_row: int, count: int, columns: Dict[str, Any]) -> None:
        super().__init__(first_row, count, list(columns))
        self._columns = columns

    def natural(self, name: str) -> Any:
        pa, _ = arrow_parts()
        kind = self._columns[name].type
        return None if pa.types.is_null(kind) else kind

    def fit(self, name: str, kind: Any) -> Optional[Any]:
        pa, pc = arrow_parts()
        values = self._columns[name]
        if values.type == kind:
            return values
        try:
            return pc.cast(values, arrow_type(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None

    def source(self, name: str) -> Any:
        return self._columns[name]


class ValueBlock(Block):
    """Columns of Python's values, as of JSON."""

    def __init__(self, first_row: int, count: int, columns: Dict[str, List[Any]]) -> None:
        super().__init__(first_row, count, list(columns))
        self._columns = columns

    def natural(self, name: str) -> Any:
        kinds = {type(one) for one in self._columns[name]} - {type(None)}
        if not kinds:
            return None
        if kinds == {bool}:
            return Kind.FLAG
        if kinds <= {int, float}:
            whole = kinds == {int}
            return next(
                (one for one in (Kind.INTEGER, Kind.NUMBER)[not whole :] if self._numbers(name, one)), Kind.TEXT
            )
        return Kind.TEXT

    def fit(self, name: str, kind: Any) -> Optional[Any]:
        pa, _ = arrow_parts()
        values = self._columns[name]
        if kind == Kind.TEXT:
            return pa.array([None if one is None else json_text(one) for one in values], pa.string())
        if any(one is not None for one in values) and self.natural(name) not in (kind, *_NARROWER.get(kind, ())):
            return None
        return pa.array([_float(one) for one in values] if kind == Kind.NUMBER else values, arrow_type(kind))

    def source(self, name: str) -> Any:
        found = self.natural(name)
        return self.fit(name, Kind.TEXT if found is None else found)

    def _numbers(self, name: str, kind: str) -> bool:
        """Whole numbers that neither kind holds without loss are text."""
        most = 2**63 if kind == Kind.INTEGER else 2**53
        return all(type(one) is not int or -most <= one < most for one in self._columns[name])


_NARROWER = {Kind.NUMBER: (Kind.INTEGER,)}


def _float(one: Any) -> Optional[float]:
    return None if one is None else float(one)


#: Longest line of a JSON file, in characters; most cells and characters of a block of its rows.
LINE_MAX, CELLS_MAX, BLOCK_CHARS = 16 << 20, 2_000_000, 8 << 20
#: Most digits of a number of a JSON file.
DIGITS_MAX = 4_000
#: Most rows of a block, and columns of a table.
BLOCK_ROWS, WIDTH_MAX = 65_536, 20_000


def _whole(digits: str) -> Any:
    """A number of thousands of digits stays text: to read it takes for ever, and newer Pythons refuse to."""
    return int(digits) if len(digits) <= DIGITS_MAX else digits


_DECODER = json.JSONDecoder(parse_int=_whole)
#: How a character that stands for half of one is written.
_HALF = "\\ud"


def parse_json(line: str) -> Dict[str, Any]:
    """A line's object; ValueError says what it is instead."""
    try:
        found = _DECODER.decode(line)
        if _HALF in line.lower():
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character") from None
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except ValueError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def check_width(count: int, label: str) -> None:
    """UserErrorException for a file of more columns than a table may have."""
    if count > WIDTH_MAX:
        raise UserErrorException(f"{label} has more than {WIDTH_MAX:,} columns; is it a table of this format?")
