"""A column's values: what their text stands for, without loss, and their conversion to the type that was asked for."""

import json
import re
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.tables import ColumnType, Kind
from runyard.sdk.tabular_engine import arrow, arrow_parts

#: Spellings of a missing value among numbers, times and flags. In a column of text they are text.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "#N/A", "-")
#: Formats that are tried for a column of times without one; ISO 8601 comes before them.
_DAYS = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y")
_HOURS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_ISO = re.compile(
    r"\s*(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?\s*(Z|[+-]\d\d:?\d\d)?\s*$"
)
_WHOLE = re.compile(r"[+-]?\d+$")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|[+-]?(inf|infinity)$|nan$", re.IGNORECASE)


def arrow_type(kind: Any) -> Any:
    """Arrow's type of a kind; one of Arrow's own is itself, None is text."""
    pa, _ = arrow_parts()
    if kind is None or kind == Kind.TEXT:
        return pa.string()
    known = {Kind.INTEGER: pa.int64(), Kind.NUMBER: pa.float64(), Kind.FLAG: pa.bool_(), Kind.TIME: pa.timestamp("us")}
    return known.get(kind, kind) if isinstance(kind, str) else kind


def widest(one: Any, other: Any, name: str, label: str) -> Any:
    """The kind that holds the values of both; UserErrorException where there is none."""
    if one is None or one == other:
        return other
    if isinstance(one, str) and isinstance(other, str):
        return Kind.NUMBER if {one, other} == {Kind.INTEGER, Kind.NUMBER} else Kind.TEXT
    pa, _ = arrow_parts()
    first, second = arrow_type(one), arrow_type(other)
    if pa.types.is_integer(first) and pa.types.is_integer(second):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (first, second)):
        return pa.float64()
    raise UserErrorException(
        f"Column {name!r} is {second} in {label} and {first} in a file before it; "
        f"pass set_column_types={{{name!r}: DataType.to_string()}}, or the type that it should have."
    )


def natural_kind(texts: Any) -> Any:
    """What all texts of a column stand for; None if there are none, text where they differ."""
    sample = next((text for text in _head(texts) if text is not None and text.strip() not in MISSING), None)
    if sample is None:
        sample = next((text for text in texts.to_pylist() if text is not None and text.strip() not in MISSING), None)
    if sample is None:
        return None if texts.null_count == len(texts) else Kind.TEXT
    looked = sample.strip()
    if _DECIMAL.match(looked):
        wishes: Tuple[str, ...] = (Kind.INTEGER, Kind.NUMBER)
    elif looked.lower() in ("true", "false"):
        wishes = (Kind.FLAG,)
    elif _ISO.match(looked):
        wishes = (Kind.TIME,)
    else:
        return Kind.TEXT
    return next((kind for kind in wishes if fit_text(texts, kind) is not None), Kind.TEXT)


def fit_text(texts: Any, kind: str) -> Optional[Any]:
    """The texts as values of ``kind``; None unless every one of them is one, without loss."""
    pa = arrow()
    if kind == Kind.TEXT:
        return texts
    for is_clean in (False, True):
        try:
            found = _FITS[kind](_cleaned(texts) if is_clean else texts)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
            continue
        if found is not None:
            return found
    return None


def convert(values: Any, wanted: ColumnType, guessed: Dict[str, Any], name: str) -> Any:
    """A column as the type that was asked for; what does not fit is null.

    ``guessed`` keeps the formats that were found for a column of times, for the blocks that follow.
    """
    pa, pc = arrow_parts()
    kind = arrow_type(wanted.kind)
    if wanted.kind == Kind.TEXT:
        return _as_text(values)
    if not _is_text(values):
        if wanted.kind == Kind.TIME and pa.types.is_timestamp(values.type):
            return pc.cast(values, kind, safe=False)
        if values.type == kind:
            return values
        try:
            return pc.cast(values, kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values = _as_text(values)
    if wanted.kind == Kind.NUMBER and wanted.decimal_mark == ",":
        bare = pc.replace_substring(values, pattern=".", replacement="")
        values = pc.replace_substring(bare, pattern=",", replacement=".")
    if not (wanted.kind == Kind.TIME and wanted.formats):
        found = fit_text(values, wanted.kind)
        if found is not None:
            return found
    return pa.array(_each(values.to_pylist(), _parser(wanted, values, guessed, name)), kind)


def _fit_integers(texts: Any) -> Any:
    pa, pc = arrow_parts()
    found = pc.cast(texts, pa.int64())
    # Arrow reads 0x10 as sixteen; nobody else reads a table so.
    return None if any(pc.any(pc.match_substring(texts, one)).as_py() for one in "xX") else found


def _fit_numbers(texts: Any) -> Any:
    pa, pc = arrow_parts()
    found = pc.cast(texts, pa.float64())
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest >= 16:
        # Digits of an identity are no measure: as a float they would be others.
        huge = pc.match_substring_regex(texts, pattern=r"^\s*[+-]?[0-9]{16,}\s*$")
        if pc.any(huge).as_py():
            return None
    return found


def _fit_flags(texts: Any) -> Any:
    pa, pc = arrow_parts()
    lower = pc.utf8_lower(texts)
    if not pc.all(pc.is_in(lower, value_set=pa.array(["true", "false", None]))).as_py():
        return None
    return pc.equal(lower, "true")


def _fit_times(texts: Any) -> Any:
    pa, pc = arrow_parts()
    for zone in (None, "UTC") if _tells_zones() else ():
        try:
            return pc.cast(pc.cast(texts, pa.timestamp("us", zone)), pa.timestamp("us"))
        except pa.ArrowInvalid:
            pass
    distinct = pc.dictionary_encode(texts)
    values = distinct.dictionary.to_pylist()
    # A time without a zone among those with one could mean anything.
    zoned = {bool(_zone(text)) for text in values if text is not None}
    parsed = [None if text is None else parse_iso(text) for text in values]
    if len(zoned) > 1 or any(one is None for one in parsed):
        return None
    return pa.array(parsed, pa.timestamp("us")).take(distinct.indices)


@lru_cache(maxsize=1)
def _tells_zones() -> bool:
    """Does this Arrow refuse a time with a zone where none is due? Older ones took both."""
    pa, pc = arrow_parts()
    try:
        pc.cast(pa.array(["2020-01-02T03:04:05Z"]), pa.timestamp("us"))
    except pa.ArrowInvalid:
        return True
    return False


_FITS: Dict[str, Callable[[Any], Any]] = {
    Kind.INTEGER: _fit_integers, Kind.NUMBER: _fit_numbers, Kind.FLAG: _fit_flags, Kind.TIME: _fit_times,
}  # fmt: skip


def _cleaned(texts: Any) -> Any:
    """Without blanks around, a plus in front, and the spellings of what is missing."""
    pa, pc = arrow_parts()
    bare = pc.utf8_trim_whitespace(texts)
    gone = pc.is_in(bare, value_set=pa.array(list(MISSING)))
    bare = pc.if_else(gone, pa.scalar(None, bare.type), bare)
    return pc.replace_substring_regex(bare, pattern=r"^\+([0-9.])", replacement=r"\1")


def parse_iso(text: str) -> Optional[datetime]:
    """A time of ISO 8601, in UTC and without a zone; digits after the microseconds are left out. None if it is none."""
    found = _ISO.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        at = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int(((fraction or "") + "000000")[:6]),
        )  # fmt: skip
        return at if zone in (None, "Z") else _to_utc(at, zone)
    except (ValueError, OverflowError):
        return None


def _to_utc(at: datetime, zone: str) -> datetime:
    digits = zone[1:].replace(":", "")
    shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return at - shift if zone[0] == "+" else at + shift


def _zone(text: str) -> Optional[str]:
    found = _ISO.match(text)
    return found.group(8) if found else None


def _parser(wanted: ColumnType, values: Any, guessed: Dict[str, Any], name: str) -> Callable[[str], Any]:
    if wanted.kind == Kind.INTEGER:
        return _whole
    if wanted.kind == Kind.NUMBER:
        return lambda text: float(text) if _DECIMAL.match(text) else None
    if wanted.kind == Kind.FLAG:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return lambda text: words.get(text.lower())
    formats = wanted.formats or guessed.get(name)
    if not formats:
        formats = guessed[name] = _guess_formats([one for one in values.to_pylist() if one], name)
    return lambda text: _parse_time(text, formats)


def _whole(text: str) -> Optional[int]:
    if not _WHOLE.match(text):
        number = float(text) if _DECIMAL.match(text) else 0.5
        found = int(number) if number == number and abs(number) < 2**53 and number == int(number) else None
        return found
    return int(text) if len(text) <= 20 and -(2**63) <= int(text) < 2**63 else None


def _parse_time(text: str, formats: Tuple[str, ...]) -> Optional[datetime]:
    for one in formats:
        if one == "iso":
            found = parse_iso(text)
            if found is not None:
                return found
            continue
        try:
            at = datetime.strptime(text, one)
        except ValueError:
            continue
        return at if at.tzinfo is None else at.astimezone(timezone.utc).replace(tzinfo=None)
    return None


def _guess_formats(texts: List[str], name: str) -> Tuple[str, ...]:
    """The format that reads a column's first values; UserErrorException where day and month could be either."""
    texts = [text.strip() for text in texts if text.strip() not in MISSING][:1_000]
    if not texts or any(parse_iso(text) is not None for text in texts):
        return ("iso",)
    every = [day + hour for day in _DAYS for hour in _HOURS]
    counts = {one: sum(_parse_time(text, (one,)) is not None for text in texts) for one in every}
    best = max(counts.values())
    winners = [one for one in every if counts[one] == best]
    if best == 0:
        return ("iso",)
    read = {tuple(_parse_time(text, (one,)) for text in texts) for one in winners}
    if len(read) > 1:
        raise UserErrorException(
            f"Column {name!r} has times such as {texts[0]!r} whose day and month could be either; "
            f"name their format, as DataType.to_datetime({winners[0]!r})."
        )
    return ("iso", winners[0])


def _each(texts: List[Optional[str]], parse: Callable[[str], Any]) -> List[Any]:
    """Every value parsed, each different one once."""
    known: Dict[Optional[str], Any] = {None: None}
    for text in texts:
        if text not in known:
            bare = text.strip() if text is not None else ""
            known[text] = None if bare in MISSING else parse(bare)
    return [known[text] for text in texts]


def _as_text(values: Any) -> Any:
    pa, pc = arrow_parts()
    if values.type == pa.string():
        return values
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if one is None else json_text(one) for one in values.to_pylist()], pa.string())


def json_text(value: Any) -> str:
    """A nested value as text: JSON, and what that has no form for as Python shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=False, default=str)


def _is_text(values: Any) -> bool:
    pa, _ = arrow_parts()
    return bool(pa.types.is_string(values.type))


def _head(texts: Any) -> List[Optional[str]]:
    found: List[Optional[str]] = texts.slice(0, 50).to_pylist()
    return found
