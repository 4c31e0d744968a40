"""v1's partition formats: columns that the paths of a table's files hold."""

import re
from datetime import datetime
from typing import Any, Dict, List, Optional
from urllib.parse import unquote

from runyard.errors import UserErrorException
from runyard.protocol.tables import Kind

#: Most columns of one format.
COLUMNS_MAX = 32
_FIELD = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_PARTS = {"yyyy": r"\d{4}", "MM": r"\d{2}", "dd": r"\d{2}", "HH": r"\d{2}", "mm": r"\d{2}", "ss": r"\d{2}"}


class PartitionFormat:
    """v1's '{region}/{day:yyyy/MM/dd}/*.csv': the columns that a path's end holds."""

    def __init__(self, text: str) -> None:
        self._text = text
        #: kind by column.
        self.columns: Dict[str, str] = {}
        self._times: Dict[str, List[str]] = {}
        pattern, at = "", 0
        for field in _FIELD.finditer(text):
            pattern += _literal(text[at : field.start()]) + self._field(field.group(1), field.group(2))
            if text[field.end() : field.end() + 1] == "{":
                raise UserErrorException(f"The partition format {text!r} needs something between its fields.")
            at = field.end()
        if not self.columns or len(self.columns) > COLUMNS_MAX:
            raise UserErrorException(
                f"The partition format {text!r} names 1 to {COLUMNS_MAX} columns, as '{{name}}/*.csv'."
            )
        try:
            self._pattern = re.compile(
                ("" if text.startswith("/") else "(?:^|/)") + pattern + _literal(text[at:]) + r"\Z"
            )
        except re.error as error:
            raise UserErrorException(f"The partition format {text!r} cannot be read: {error}.") from None

    def values(self, path: str) -> Dict[str, Any]:
        """The columns' values in a path; UserErrorException if it is not of this form."""
        found = self._pattern.search(path)
        if found is None:
            raise UserErrorException(f"{path!r} does not end as the partition format {self._text!r} says.")
        values: Dict[str, Any] = {}
        for number, name in enumerate(self.columns):
            if self.columns[name] == Kind.TEXT:
                values[name] = unquote(found.group(f"c{number}"))
            else:
                values[name] = self._time(name, number, found, path)
        return values

    def _field(self, name: str, time_format: Optional[str]) -> str:
        number = len(self.columns)
        if not name or name in self.columns:
            raise UserErrorException(f"The partition format {self._text!r} needs a name of its own for each field.")
        if time_format is None:
            self.columns[name] = Kind.TEXT
            return f"(?P<c{number}>[^/]+)"
        self.columns[name] = Kind.TIME
        pieces = re.split("(yyyy|MM|dd|HH|mm|ss)", time_format)
        self._times[name] = pieces[1::2]
        if not self._times[name] or self._times[name][0] != "yyyy" or len(set(self._times[name])) < len(pieces[1::2]):
            raise UserErrorException(
                f"The time {time_format!r} of a partition format begins with yyyy and may have MM, dd, HH, mm, ss."
            )
        return "".join(
            f"(?P<c{number}{piece}>{_PARTS[piece]})" if piece in _PARTS else _literal(piece) for piece in pieces
        )

    def _time(self, name: str, number: int, found: Any, path: str) -> datetime:
        parts = {"MM": 1, "dd": 1, "HH": 0, "mm": 0, "ss": 0}
        parts.update((piece, int(found.group(f"c{number}{piece}"))) for piece in self._times[name])
        try:
            return datetime(parts["yyyy"], parts["MM"], parts["dd"], parts["HH"], parts["mm"], parts["ss"])
        except ValueError:
            raise UserErrorException(f"{path!r} has no time where the partition format {self._text!r} says.") from None


def _literal(text: str) -> str:
    """A format's text between its fields: '*' is any part of one name."""
    return "".join("[^/]*" if piece == "*" else re.escape(piece) for piece in re.split(r"(\*)", text))
