"""v1's words for how a delimited file's columns are read: DataType and PromoteHeadersBehavior."""

from enum import Enum
from typing import Any, Dict, Optional

from runyard.errors import UserErrorException
from runyard.protocol.tables import ColumnType, Header, Kind


class PromoteHeadersBehavior(Enum):
    """Which files begin with the columns' names."""

    NO_HEADERS = 0
    ONLY_FIRST_FILE_HAS_HEADERS = 1
    COMBINE_ALL_FILES_HEADERS = 2
    ALL_FILES_HAVE_SAME_HEADERS = 3


class DataType:
    """What a column is to be read as, for ``set_column_types``."""

    def __init__(self, _type: Optional[ColumnType] = None) -> None:
        self._type = _type or ColumnType(Kind.TEXT)

    @staticmethod
    def to_string() -> "DataType":
        """Text, as it stands."""
        return DataType(ColumnType(Kind.TEXT))

    @staticmethod
    def to_long() -> "DataType":
        """Whole numbers of 64 bits."""
        return DataType(ColumnType(Kind.INTEGER))

    @staticmethod
    def to_float(decimal_mark: str = ".") -> "DataType":
        """Numbers of 64 bits; ``decimal_mark`` '.' or ','."""
        if decimal_mark not in (".", ","):
            raise UserErrorException(f"A decimal mark is '.' or ',', not {decimal_mark!r}.")
        return DataType(ColumnType(Kind.NUMBER, decimal_mark=decimal_mark))

    @staticmethod
    def to_bool() -> "DataType":
        """True and false: written so, as 1 and 0, or as yes and no."""
        return DataType(ColumnType(Kind.FLAG))

    @staticmethod
    def to_datetime(formats: Any = None) -> "DataType":
        """Times, in UTC. ``formats``: strptime's, one or several; without them they are found out when it is read."""
        many = () if formats is None else (formats,) if isinstance(formats, str) else tuple(formats)
        return DataType(ColumnType(Kind.TIME, formats=many))

    @staticmethod
    def to_stream(workspace: Any, escaped: bool = False) -> "DataType":
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(
            "Columns of streams are not read here; keep their paths as text and use a FileDataset."
        )


def header_of(header: Any) -> str:
    """The header's behaviour: v1 took True and False too."""
    known = {
        PromoteHeadersBehavior.NO_HEADERS: Header.NONE,
        PromoteHeadersBehavior.ONLY_FIRST_FILE_HAS_HEADERS: Header.FIRST,
        PromoteHeadersBehavior.COMBINE_ALL_FILES_HEADERS: Header.COMBINE,
        PromoteHeadersBehavior.ALL_FILES_HAVE_SAME_HEADERS: Header.SAME,
    }
    if isinstance(header, bool):
        return Header.SAME if header else Header.NONE
    if header not in known:
        raise UserErrorException(f"header is True, False or a PromoteHeadersBehavior, not {header!r}.")
    return known[header]


def column_types(asked: Any) -> Dict[str, ColumnType]:
    """The types of ``set_column_types``."""
    if not isinstance(asked, (dict, type(None))):
        raise UserErrorException(f"set_column_types is a dict of columns and DataTypes, not {asked!r}.")
    found = {}
    for name, one in (asked or {}).items():
        if not isinstance(one, DataType):
            raise UserErrorException(f"Column {name!r} is read as a DataType, such as DataType.to_long(), not {one!r}.")
        found[str(name)] = one._type
    return found
