"""``dataset['age'] > 3``: a condition on rows, built in Python and kept as data."""

from datetime import date, datetime, timezone
from typing import Any, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.tables import Kind, Term


class RecordFieldExpression:
    """A column, or what is calculated from columns; comparisons of it are conditions, joined by ``&``, ``|``, ``~``."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, terms: Tuple[Term, ...]) -> None:
        self._terms = terms

    def __eq__(self, other: Any) -> "RecordFieldExpression":  # type: ignore[override]
        return self.is_null() if other is None else self._with("eq", other)

    def __ne__(self, other: Any) -> "RecordFieldExpression":  # type: ignore[override]
        return ~self.is_null() if other is None else self._with("ne", other)

    def __lt__(self, other: Any) -> "RecordFieldExpression":
        return self._with("lt", other)

    def __le__(self, other: Any) -> "RecordFieldExpression":
        return self._with("le", other)

    def __gt__(self, other: Any) -> "RecordFieldExpression":
        return self._with("gt", other)

    def __ge__(self, other: Any) -> "RecordFieldExpression":
        return self._with("ge", other)

    def __and__(self, other: Any) -> "RecordFieldExpression":
        return self._with("and", other)

    def __or__(self, other: Any) -> "RecordFieldExpression":
        return self._with("or", other)

    def __invert__(self) -> "RecordFieldExpression":
        return self._with("not")

    def __add__(self, other: Any) -> "RecordFieldExpression":
        return self._with("add", other)

    def __sub__(self, other: Any) -> "RecordFieldExpression":
        return self._with("sub", other)

    def __mul__(self, other: Any) -> "RecordFieldExpression":
        return self._with("mul", other)

    def __truediv__(self, other: Any) -> "RecordFieldExpression":
        return self._with("div", other)

    def __radd__(self, other: Any) -> "RecordFieldExpression":
        return RecordFieldExpression(_terms(other))._with("add", self)

    def __rsub__(self, other: Any) -> "RecordFieldExpression":
        return RecordFieldExpression(_terms(other))._with("sub", self)

    def __rmul__(self, other: Any) -> "RecordFieldExpression":
        return RecordFieldExpression(_terms(other))._with("mul", self)

    def __rtruediv__(self, other: Any) -> "RecordFieldExpression":
        return RecordFieldExpression(_terms(other))._with("div", self)

    def is_null(self) -> "RecordFieldExpression":
        """Is there no value, or one that is not a number?"""
        return self._with("is_null")

    def is_not_null(self) -> "RecordFieldExpression":
        """Is there a value?"""
        return ~self.is_null()

    def starts_with(self, value: str) -> "RecordFieldExpression":
        """Does the text begin so?"""
        return self._with("starts_with", _text(value))

    def ends_with(self, value: str) -> "RecordFieldExpression":
        """Does the text end so?"""
        return self._with("ends_with", _text(value))

    def contains(self, value: str) -> "RecordFieldExpression":
        """Does the text hold this one?"""
        return self._with("contains", _text(value))

    def to_lower(self) -> "RecordFieldExpression":
        """The text in small letters."""
        return self._with("lower")

    def to_upper(self) -> "RecordFieldExpression":
        """The text in capitals."""
        return self._with("upper")

    def length(self) -> "RecordFieldExpression":
        """The text's length in characters."""
        return self._with("length")

    def _with(self, op: str, *others: Any) -> "RecordFieldExpression":
        terms = self._terms
        for other in others:
            terms += _terms(other)
        return RecordFieldExpression((*terms, Term(op)))

    def __bool__(self) -> bool:
        raise UserErrorException(
            "A condition on rows is joined by & | ~ with each comparison in brackets, not by and, or, not or a < b < c."
        )

    def __repr__(self) -> str:
        stack = []
        for term in self._terms:
            if term.op == "column":
                stack.append(f"dataset[{term.value!r}]")
            elif term.value is not None:
                stack.append(repr(term.value) if term.op in (Kind.TEXT, Kind.TIME) else str(term.value))
            elif term.op in _SIGNS:
                right, left = stack.pop(), stack.pop()
                stack.append(f"({left} {_SIGNS[term.op]} {right})")
            elif term.op in ("starts_with", "ends_with", "contains"):
                right, left = stack.pop(), stack.pop()
                stack.append(f"{left}.{term.op}({right})")
            else:
                stack.append(
                    f"~{stack.pop()}" if term.op == "not" else f"{stack.pop()}.{_NAMES.get(term.op, term.op)}()"
                )
        return stack[-1]


_SIGNS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
    "add": "+", "sub": "-", "mul": "*", "div": "/",
}  # fmt: skip
_NAMES = {"lower": "to_lower", "upper": "to_upper"}


def column(name: str) -> RecordFieldExpression:
    """The column of that name, in a condition."""
    if not isinstance(name, str):
        raise UserErrorException(f"A column is named by a text, not by {name!r}.")
    return RecordFieldExpression((Term("column", name),))


def time_text(at: Any) -> str:
    """A time as it is kept: UTC; one without a zone is taken for UTC."""
    if not isinstance(at, datetime):
        at = datetime(at.year, at.month, at.day)
    if at.tzinfo is not None:
        at = at.astimezone(timezone.utc).replace(tzinfo=None)
    return str(at.isoformat(timespec="microseconds" if at.microsecond else "seconds"))


def _terms(one: Any) -> Tuple[Term, ...]:
    if isinstance(one, RecordFieldExpression):
        return one._terms
    # numpy's numbers and pandas' times are known by what they can do: neither is loaded here.
    if hasattr(one, "item") and callable(one.item):
        one = one.item()
    if isinstance(one, bool):
        return (Term(Kind.FLAG, "true" if one else "false"),)
    if isinstance(one, int):
        return (Term(Kind.INTEGER, str(one)),)
    if isinstance(one, float):
        return (Term(Kind.NUMBER, repr(one)),)
    if isinstance(one, str):
        return (Term(Kind.TEXT, one),)
    if isinstance(one, date):
        return (Term(Kind.TIME, time_text(one)),)
    raise UserErrorException(f"A filter compares with a text, a number, a time, True or False, not with {one!r}.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserErrorException(f"A text is looked for in a text, not {value!r}.")
    return value
