"""A filter carried out: on the values of a block, and beforehand on what is known of a file or a row group."""

from datetime import datetime
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.tables import VALUES, Kind, Term
from runyard.sdk.tabular_columns import parse_iso
from runyard.sdk.tabular_engine import arrow_parts

#: The least and the greatest value of a column, and whether all its values are known to lie there.
Range = Tuple[Any, Any]
#: (may a row be true, may a row be false).
_Chance = Tuple[bool, bool]
_EITHER: _Chance = (True, True)
_COMPARE = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
_MATCH = {"starts_with": "starts_with", "ends_with": "ends_with", "contains": "match_substring"}


def mask_of(terms: Sequence[Term], columns: Mapping[str, Any], count: int) -> Any:
    """Which of ``count`` rows fulfil the condition. A missing value equals nothing, and is neither less nor greater."""
    pa, pc = arrow_parts()
    stack: List[Any] = []
    for term in terms:
        if term.op == "column":
            values = columns.get(str(term.value), pa.nulls(count))
            stack.append(pc.cast(values, pa.timestamp("us")) if pa.types.is_date(values.type) else values)
        elif term.op in VALUES:
            stack.append(_Value(value_of(term)))
        elif term.op == "not":
            stack.append(pc.invert(_condition(stack.pop())))
        elif term.op in ("and", "or"):
            right, left = _condition(stack.pop()), _condition(stack.pop())
            stack.append((pc.and_ if term.op == "and" else pc.or_)(left, right))
        elif term.op == "is_null":
            stack.append(_is_null(stack.pop()))
        elif term.op in ("lower", "upper", "length"):
            stack.append(_of_text(term.op, stack.pop()))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_of_two(term.op, left, right))
    return _condition(stack.pop())


def value_of(term: Term) -> Any:
    """A term's value in Python."""
    text = str(term.value)
    if term.op == Kind.INTEGER:
        return int(text)
    if term.op == Kind.NUMBER:
        return float(text)
    if term.op == Kind.FLAG:
        return text == "true"
    if term.op == Kind.TIME:
        at = parse_iso(text)
        if at is None:
            raise UserErrorException(f"A filter's time {text[:40]!r} is none.")
        return at
    return text


class _Value:
    """A constant of the condition."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _of_two(op: str, left: Any, right: Any) -> Any:
    _, pc = arrow_parts()
    if op in _MATCH:
        if not isinstance(right, _Value) or not isinstance(right.value, str):
            raise UserErrorException(f"{op} takes a text.")
        return pc.fill_null(getattr(pc, _MATCH[op])(_text(left, op), pattern=right.value), False)
    if op in _COMPARE:
        left, right = _matched(left, right)
        return pc.fill_null(getattr(pc, _COMPARE[op])(left, right), op == "ne")
    for one in (left, right):
        _check_number(one)
    return _calculated(op, *_matched(left, right))


def _calculated(op: str, left: Any, right: Any) -> Any:
    pa, pc = arrow_parts()
    name = {"add": "add_checked", "sub": "subtract_checked", "mul": "multiply_checked", "div": "divide"}[op]
    if op == "div":
        left, right = pc.cast(left, pa.float64(), safe=False), pc.cast(right, pa.float64(), safe=False)
    try:
        return getattr(pc, name)(left, right)
    except pa.ArrowInvalid as error:
        raise UserErrorException(f"A filter cannot calculate this: {error}.") from None


def _check_number(one: Any) -> None:
    pa, _ = arrow_parts()
    if isinstance(one, _Value):
        is_number = isinstance(one.value, (int, float)) and not isinstance(one.value, bool)
    else:
        is_number = _is_number(one.type) or pa.types.is_null(one.type)
    if not is_number:
        what = repr(one.value) if isinstance(one, _Value) else f"a column of {one.type}"
        raise UserErrorException(f"A filter calculates with numbers, not with {what}.")


def _matched(left: Any, right: Any) -> Tuple[Any, Any]:
    """Both sides as values that compare; UserErrorException where they do not."""
    pa, pc = arrow_parts()
    if isinstance(left, _Value) and isinstance(right, _Value):
        raise UserErrorException("A filter's condition names at least one column on each comparison.")
    if isinstance(left, _Value):
        swapped = _matched(right, left)
        return swapped[1], swapped[0]
    if isinstance(right, _Value):
        if pa.types.is_null(left.type):
            at = isinstance(right.value, datetime)
            right_scalar = pa.scalar(right.value, pa.timestamp("us") if at else None)
            return pc.cast(left, right_scalar.type), right_scalar
        return left, _scalar(right.value, left.type)
    if pa.types.is_null(left.type) or pa.types.is_null(right.type) or left.type == right.type:
        other = right.type if pa.types.is_null(left.type) else left.type
        other = pa.string() if pa.types.is_null(other) else other
        return pc.cast(left, other), pc.cast(right, other)
    if _is_number(left.type) and _is_number(right.type):
        return left, right
    if pa.types.is_timestamp(left.type) and pa.types.is_timestamp(right.type):
        return pc.cast(left, pa.timestamp("us"), safe=False), pc.cast(right, pa.timestamp("us"), safe=False)
    raise UserErrorException(f"A filter cannot compare a column of {left.type} with one of {right.type}.")


def _scalar(value: Any, kind: Any) -> Any:
    pa, _ = arrow_parts()
    if pa.types.is_timestamp(kind):
        at = parse_iso(value) if isinstance(value, str) else value
        if isinstance(at, datetime):
            # Arrow takes a time without a zone for UTC, which ours are.
            return pa.scalar(at, pa.timestamp("us", kind.tz))
    if isinstance(value, bool) and pa.types.is_boolean(kind):
        return pa.scalar(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_number(kind):
        return pa.scalar(value, pa.float64() if isinstance(value, float) else pa.int64())
    if isinstance(value, str) and pa.types.is_string(kind):
        return pa.scalar(value)
    raise UserErrorException(
        f"A filter cannot compare a column of {kind} with {value!r}; set_column_types says what a column is read as."
    )


def _condition(one: Any) -> Any:
    pa, pc = arrow_parts()
    if isinstance(one, _Value) or not (pa.types.is_boolean(one.type) or pa.types.is_null(one.type)):
        raise UserErrorException("A filter's condition is a comparison, or a column of true and false.")
    return pc.fill_null(pc.cast(one, pa.bool_()), False)


def _is_null(one: Any) -> Any:
    pa, pc = arrow_parts()
    if isinstance(one, _Value):
        raise UserErrorException("is_null asks a column.")
    missing = pc.is_null(one)
    return pc.or_(missing, pc.fill_null(pc.is_nan(one), True)) if pa.types.is_floating(one.type) else missing


def _of_text(op: str, one: Any) -> Any:
    pa, pc = arrow_parts()
    texts = _text(one, op)
    if op == "length":
        return pc.cast(pc.utf8_length(texts), pa.int64())
    return pc.utf8_lower(texts) if op == "lower" else pc.utf8_upper(texts)


def _text(one: Any, op: str) -> Any:
    pa, pc = arrow_parts()
    if isinstance(one, _Value) or not (pa.types.is_string(one.type) or pa.types.is_null(one.type)):
        raise UserErrorException(f"{op} asks a column of text, not {getattr(one, 'type', 'a value')}.")
    return pc.cast(one, pa.string())


def _is_number(kind: Any) -> bool:
    pa, _ = arrow_parts()
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def may_match(terms: Sequence[Term], known: Mapping[str, Range]) -> bool:
    """Could a row fulfil the condition, where all that is known are the ranges of some columns?

    A range holds for the values that are there: what is missing fulfils no comparison but ``ne``.
    """
    stack: List[Any] = []
    for term in terms:
        if term.op == "column":
            stack.append(known.get(str(term.value)))
        elif term.op in VALUES:
            value = value_of(term)
            stack.append((value, value))
        elif term.op == "not":
            one = _chance(stack.pop())
            stack.append(_Chances((one[1], one[0])))
        elif term.op in ("and", "or"):
            stack.append(_joined(term.op, _chance(stack.pop()), _chance(stack.pop())))
        elif term.op in _COMPARE:
            right, left = stack.pop(), stack.pop()
            stack.append(_compared(term.op, left, right))
        else:
            takes_two = term.op in _MATCH or term.op in ("add", "sub", "mul", "div")
            del stack[-2 if takes_two else -1 :]
            stack.append(None)
    return _chance(stack.pop())[0]


class _Chances(tuple):  # type: ignore[type-arg]
    """A condition's chances, told apart from a column's range."""


def _chance(one: Any) -> _Chance:
    return (one[0], one[1]) if isinstance(one, _Chances) else _EITHER


def _joined(op: str, one: _Chance, other: _Chance) -> _Chances:
    if op == "and":
        return _Chances((one[0] and other[0], one[1] or other[1]))
    return _Chances((one[0] or other[0], one[1] and other[1]))


def _compared(op: str, left: Optional[Range], right: Optional[Range]) -> _Chances:
    if left is None or right is None or isinstance(left, _Chances) or isinstance(right, _Chances):
        return _Chances(_EITHER)
    try:
        # The second may always be: a missing value makes every comparison but 'ne' false.
        return _Chances((_POSSIBLE[op](left, right), True))
    except TypeError:
        return _Chances(_EITHER)


_POSSIBLE: Dict[str, Callable[[Range, Range], bool]] = {
    "eq": lambda a, b: a[0] <= b[1] and b[0] <= a[1],
    # True for what is missing, too.
    "ne": lambda a, b: True,
    "lt": lambda a, b: bool(a[0] < b[1]),
    "le": lambda a, b: bool(a[0] <= b[1]),
    "gt": lambda a, b: bool(a[1] > b[0]),
    "ge": lambda a, b: bool(a[1] >= b[0]),
}
