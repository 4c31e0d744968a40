"""Dataclasses to and from JSON: the one encoder and the one decoder of everything that crosses the wire.

Replies and reports ignore unknown fields, so that neighbouring versions understand each other; users' requests are
decoded with ``strict=True``, so that a mistyped name is an error and not a silence.
"""

import dataclasses
import json
import typing
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, TypeVar

from runyard.errors import UserErrorException

T = TypeVar("T")

#: The most levels that a decoded value may nest; a hostile body cannot exhaust the stack.
MAX_DEPTH = 32

#: (data, strict, depth) to a value; raises _Misfit.
_Decoder = Callable[[Any, bool, int], Any]

_decoders: Dict[Any, _Decoder] = {}
_names: Dict[type, Optional[Tuple[str, ...]]] = {}
_SCALARS = frozenset((str, int, float, bool, type(None)))


class _Misfit(Exception):
    """What does not fit; each level that it passes adds its own name to ``path``."""

    def __init__(self, before: str, after: str, path: str = "") -> None:
        super().__init__()
        self.before = before
        self.after = after
        self.path = path


def to_wire(value: Any) -> Any:
    """The JSON form of a dataclass, tuple, mapping or scalar. Fields that are None are left out."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in (list, tuple):
        return [to_wire(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_wire(item) for key, item in value.items()}
    names = _field_names(kind)
    if names is None:
        return value
    found = {}
    for name in names:
        item = getattr(value, name)
        if item is not None:
            found[name] = item if type(item) in _SCALARS else to_wire(item)
    return found


def from_wire(kind: Type[T], data: Any, strict: bool = False) -> T:
    """A value of ``kind`` from its JSON form; UserErrorException names the field that does not fit."""
    try:
        return typing.cast(T, _decoder(kind)(data, strict, 0))
    except _Misfit as error:
        raise UserErrorException(f"{error.before}{kind.__name__}{error.path}{error.after}") from None


def prepare(*kinds: type) -> None:
    """Make what decodes these types now, for a process that is forked later."""
    for kind in kinds:
        _decoder(kind)


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


def _field_names(kind: type) -> Optional[Tuple[str, ...]]:
    if kind not in _names:
        is_one = dataclasses.is_dataclass(kind)
        _names[kind] = tuple(one.name for one in dataclasses.fields(kind)) if is_one else None
    return _names[kind]


def _decoder(kind: Any) -> _Decoder:
    """The decoder of a type, made at its first use: to look at annotations for each value takes four times as long."""
    found = _decoders.get(kind)
    if found is None:
        # Another thread may need it at this moment: none sees it before it is whole, with all that it consists of.
        made: Dict[Any, _Decoder] = {}
        found = _part(kind, made)
        _decoders.update(made)
    return found


def _part(kind: Any, made: Dict[Any, _Decoder]) -> _Decoder:
    """The decoder of a part of another; those in ``made`` may not be whole yet, since a type may contain itself."""
    found = _decoders.get(kind) or made.get(kind)
    if found is None:
        found = made[kind] = _make_decoder(kind, made)
    return found


def _make_decoder(kind: Any, made: Dict[Any, _Decoder]) -> _Decoder:
    if kind is Any:
        return lambda data, strict, depth: data
    origin = getattr(kind, "__origin__", None)
    if origin is typing.Union:
        inner = _part(next(choice for choice in kind.__args__ if choice is not type(None)), made)
        return lambda data, strict, depth: None if data is None else inner(data, strict, depth)
    if origin in (tuple, Tuple):
        return _tuple_decoder(_part(kind.__args__[0], made))
    if origin in (dict, Dict):
        return _mapping_decoder(_part(kind.__args__[1], made))
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind, made)
    return _decode_text if kind is str else _scalar_decoder(kind)


def _tuple_decoder(item: _Decoder) -> _Decoder:
    def decode(data: Any, strict: bool, depth: int) -> Any:
        if not isinstance(data, (list, tuple)):
            raise _misfit("a list", data)
        _check_depth(depth)
        found: List[Any] = []
        try:
            for one in data:
                found.append(item(one, strict, depth + 1))
        except _Misfit as error:
            error.path = f"[{len(found)}]{error.path}"
            raise
        return tuple(found)

    return decode


def _mapping_decoder(item: _Decoder) -> _Decoder:
    def decode(data: Any, strict: bool, depth: int) -> Any:
        if not isinstance(data, dict):
            raise _misfit("an object", data)
        _check_depth(depth)
        found = {}
        for key, one in data.items():
            _check_text(str(key), "A name in ")
            try:
                found[key] = item(one, strict, depth + 1)
            except _Misfit as error:
                error.path = f"[{key!r}]{error.path}"
                raise
        return found

    return decode


def _dataclass_decoder(kind: Any, made: Dict[Any, _Decoder]) -> _Decoder:
    hints = typing.get_type_hints(kind)
    decoders: Dict[str, _Decoder] = {}
    # None is never sent, so what is absent and may be None is None.
    absent = {name: None for name, hint in hints.items() if _is_required_optional(kind, name, hint)}

    def decode(data: Any, strict: bool, depth: int) -> Any:
        if isinstance(data, kind):
            return data
        if not isinstance(data, dict):
            raise _misfit("an object", data)
        _check_depth(depth)
        values: Dict[str, Any] = dict(absent)
        name = ""
        try:
            for name, one in data.items():
                inner = decoders.get(name)
                if inner is not None:
                    values[name] = inner(one, strict, depth + 1)
                elif strict:
                    raise _Misfit("", " has no field {!r}; it has {}.".format(name, ", ".join(hints)))
        except _Misfit as error:
            if name in decoders:
                error.path = f".{name}{error.path}"
            raise
        try:
            return kind(**values)
        except TypeError:
            missing = [f.name for f in dataclasses.fields(kind) if f.name not in values and _is_required(f)]
            raise _Misfit("", " lacks {}.".format(", ".join(missing))) from None

    # Known before its fields are looked at.
    made[kind] = decode
    decoders.update((name, _part(hint, made)) for name, hint in hints.items())
    return decode


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Misfit("", f" nests deeper than {MAX_DEPTH} levels.")


def _is_required_optional(kind: Any, name: str, hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is typing.Union and _is_required(kind.__dataclass_fields__[name])


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _decode_text(data: Any, _strict: bool, _depth: int) -> Any:
    if not isinstance(data, str):
        raise _misfit("of type str", data)
    _check_text(data)
    return data


def _scalar_decoder(kind: type) -> _Decoder:
    def decode(data: Any, _strict: bool, _depth: int) -> Any:
        if kind is float and isinstance(data, int) and not isinstance(data, bool):
            return float(data)
        if isinstance(data, kind) and not (kind in (int, float) and isinstance(data, bool)):
            return data
        raise _misfit("of type " + kind.__name__, data)

    return decode


def _check_text(text: str, before: str = "") -> None:
    """Refuse text that no store can keep: a NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise _Misfit(before, " contains a NUL character; remove it.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise _Misfit(before, " is not valid Unicode text.") from None


def _misfit(wanted: str, data: Optional[Any]) -> _Misfit:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return _Misfit("", f" must be {wanted}, not {shown}.")
