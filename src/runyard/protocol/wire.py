"""Dataclasses to and from JSON: the one encoder and the one decoder of everything that crosses the wire.

Replies and reports ignore unknown fields, so that neighbouring versions understand each other; users' requests are
decoded with ``strict=True``, so that a mistyped name is an error and not a silence.
"""

import dataclasses
import json
import typing
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

from runyard.errors import UserErrorException

T = TypeVar("T")

#: The most levels that a decoded value may nest; a hostile body cannot exhaust the stack.
MAX_DEPTH = 32

_hints: Dict[type, Dict[str, Any]] = {}


def to_wire(value: Any) -> Any:
    """The JSON form of a dataclass, tuple, mapping or scalar. Fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_wire(item) for name, item in pairs if item is not None}
    if isinstance(value, (list, tuple)):
        return [to_wire(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_wire(item) for key, item in value.items()}
    return value


def from_wire(kind: Type[T], data: Any, strict: bool = False) -> T:
    """A value of ``kind`` from its JSON form; UserErrorException names the field that does not fit."""
    return typing.cast(T, _decode(kind, data, kind.__name__, strict, 0))


def dumps(value: Any) -> str:
    """``value`` as canonical JSON text: keys sorted, no blanks, so that equal values give equal text."""
    return json.dumps(to_wire(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def loads(kind: Type[T], text: str, strict: bool = False) -> T:
    """A value of ``kind`` from JSON text."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserErrorException(f"This is not JSON: {error}.") from None
    return from_wire(kind, data, strict)


def _decode(kind: Any, data: Any, where: str, strict: bool, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise UserErrorException(f"{where} nests deeper than {MAX_DEPTH} levels.")
    if kind is Any:
        return data
    origin = getattr(kind, "__origin__", None)
    if origin is typing.Union:
        return None if data is None else _decode(_only_choice(kind), data, where, strict, depth)
    if origin in (tuple, Tuple):
        return _decode_tuple(kind, data, where, strict, depth)
    if origin in (dict, Dict):
        return _decode_mapping(kind, data, where, strict, depth)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where, strict, depth)
    return _decode_scalar(kind, data, where)


def _only_choice(kind: Any) -> Any:
    return next(choice for choice in kind.__args__ if choice is not type(None))


def _decode_tuple(kind: Any, data: Any, where: str, strict: bool, depth: int) -> Tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise _misfit(where, "a list", data)
    item = kind.__args__[0]
    return tuple(_decode(item, one, f"{where}[{i}]", strict, depth + 1) for i, one in enumerate(data))


def _decode_mapping(kind: Any, data: Any, where: str, strict: bool, depth: int) -> Dict[str, Any]:
    if not isinstance(data, dict):
        raise _misfit(where, "an object", data)
    item = kind.__args__[1]
    for key in data:
        check_text(str(key), f"A name in {where}")
    return {key: _decode(item, one, f"{where}[{key!r}]", strict, depth + 1) for key, one in data.items()}


def _decode_dataclass(kind: Any, data: Any, where: str, strict: bool, depth: int) -> Any:
    if isinstance(data, kind):
        return data
    if not isinstance(data, dict):
        raise _misfit(where, "an object", data)
    hints = _hints.get(kind)
    if hints is None:
        hints = _hints[kind] = typing.get_type_hints(kind)
    if strict:
        for name in data:
            if name not in hints:
                raise UserErrorException("{} has no field {!r}; it has {}.".format(where, name, ", ".join(hints)))
    values = {
        name: _decode(hint, data[name], f"{where}.{name}", strict, depth + 1)
        for name, hint in hints.items()
        if name in data
    }
    # None is never sent, so what is absent and may be None is None.
    values.update(
        (name, None) for name, hint in hints.items() if name not in data and _is_required_optional(kind, name, hint)
    )
    try:
        return kind(**values)
    except TypeError:
        missing = [f.name for f in dataclasses.fields(kind) if f.name not in values and _is_required(f)]
        raise UserErrorException("{} lacks {}.".format(where, ", ".join(missing))) from None


def _is_required_optional(kind: Any, name: str, hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is typing.Union and _is_required(kind.__dataclass_fields__[name])


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _decode_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(data, kind) and not (kind in (int, float) and isinstance(data, bool)):
        if kind is str:
            check_text(data, where)
        return data
    raise _misfit(where, "of type " + kind.__name__, data)


def check_text(text: str, where: str) -> None:
    """Refuse text that no store can keep: a NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise UserErrorException(f"{where} contains a NUL character; remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserErrorException(f"{where} is not valid Unicode text.") from None


def _misfit(where: str, wanted: str, data: Optional[Any]) -> UserErrorException:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return UserErrorException(f"{where} must be {wanted}, not {shown}.")
