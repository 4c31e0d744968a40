"""Old pins: which Python every one of them fits, and the day whose packages they knew.

What a file pins is on the index still. What it leaves open has moved on since, and its Python may be gone; so the rest
is taken as of the newest pin's day, on the nearest Python that every pin fits. Pure, given what the index says.
"""

from datetime import date, timedelta
from typing import Iterable, List, Optional, Sequence, Tuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from runyard.environments.index import Index, Release
from runyard.environments.pins import without_options
from runyard.environments.pythons import Interpreter, minor_of
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import Note
from runyard.protocol.record import record

#: What a package needs is taken as it was that long after the newest pin: its first weeks bring the fixes.
MARGIN_DAYS = 30
#: Pins whose newest is older than this are resolved as of their day at once, and not first as of today.
OLD_DAYS = 730
#: Minor versions that wheels of this host may be for.
KNOWN_MINORS = tuple(f"3.{number}" for number in range(7, 16))


@record
class Pin:
    """A requirement with an upper end, and the release that it means."""

    requirement: str
    name: str
    release: Release

    def fits(self, minor: str) -> bool:
        """Can that Python have it: by a wheel, or by a source where it never had a wheel for any Python here?"""
        if self.release.has_wheel_for(minor):
            return True
        has_wheels = any(self.release.has_wheel_for(one) for one in KNOWN_MINORS)
        return self.release.has_source and not has_wheels and self.release.allows(minor)

    def minors(self) -> List[str]:
        """The Pythons that can have it, oldest first."""
        return [minor for minor in KNOWN_MINORS if self.fits(minor)]


def applying(requirements: Iterable[str], version: str) -> Tuple[str, ...]:
    """The lines that count for that Python ("3.11.4") on this host, by their markers; what cannot be read counts."""
    return tuple(line for line in requirements if _applies(_requirement(line), version))


def find_pins(requirements: Iterable[str], index: Index) -> Tuple[Pin, ...]:
    """The requirements that name a newest version, as far as the index knows them."""
    bounded = [one for one in map(_parse, requirements) if one is not None and _is_bounded(one)]
    index.fetch(one.name for one in bounded)
    found = []
    for one in bounded:
        release = next((it for it in index.releases(one.name) if one.specifier.contains(it.version, True)), None)
        if release is not None:
            found.append(Pin(str(one), canonicalize_name(one.name), release))
    return tuple(found)


def day_of(pins: Sequence[Pin]) -> Optional[Tuple[str, Pin]]:
    """The newest pin's day, and that pin; None where no day is known."""
    days = [(pin.release.uploaded, pin.requirement, pin) for pin in pins if pin.release.uploaded]
    if not days:
        return None
    newest = max(days, key=lambda one: one[:2])
    return str(newest[0]), newest[2]


def is_old(day: str, today: date) -> bool:
    """Would what the newest pin needs have moved on by now?"""
    return (today - date.fromisoformat(day)).days > OLD_DAYS


def as_of(day: str, today: date) -> Optional[str]:
    """The day to resolve for; None where that is not in the past."""
    newest, margin = date.fromisoformat(day), timedelta(days=MARGIN_DAYS)
    return (newest + margin).isoformat() if newest < today - margin else None


def as_of_note(day: str, pin: Pin, then: str) -> Note:
    """What to tell of it."""
    why = f"the newest pin, {pin.requirement}, is of {day}; what it needs is taken as it was {MARGIN_DAYS} days later"
    return Note("packages that are not pinned", "as of today", f"as of {then}", why)


def nearest(wanted: str, pins: Sequence[Pin], available: Sequence[Interpreter]) -> Interpreter:
    """Of ``available``, the interpreter that every pin fits and whose minor version is nearest to ``wanted`` ("3.6").

    EnvironmentBuildError names the pin that stands in the way, and the Pythons that it has.
    """
    fitting = [one for one in available if all(pin.fits(minor_of(one)) for pin in pins)]
    if fitting:
        return min(fitting, key=lambda one: (_distance(wanted, minor_of(one)), available.index(one)))
    raise _no_python(pins, available)


def _no_python(pins: Sequence[Pin], available: Sequence[Interpreter]) -> EnvironmentBuildError:
    common = [minor for minor in KNOWN_MINORS if all(pin.fits(minor) for pin in pins)]
    if common:
        here = ", ".join(sorted({minor_of(one) for one in available}, key=_number)) or "none"
        sentence = f"Together the pins need Python {_shown(common)}, and this host has {here}."
        return EnvironmentBuildError(sentence, hint=f"Install Python {common[-1]}, or change a pin.")
    each = "; ".join(f"{pin.requirement} has {_shown(pin.minors())}" for pin in pins)
    return EnvironmentBuildError(f"No Python fits every pin: {each}.", hint="Change one of these pins.")


def _shown(minors: Sequence[str]) -> str:
    """Minor versions; as "3.7 to 3.9" where they follow one another."""
    if len(minors) > 2 and _number(minors[-1]) - _number(minors[0]) == len(minors) - 1:
        return f"{minors[0]} to {minors[-1]}"
    return ", ".join(minors) or "none"


def python_why(asked: str, minor: str, pins: Sequence[Pin]) -> str:
    """Why another minor version than ``asked`` was taken."""
    narrow = [pin for pin in pins if asked and not pin.fits(asked)] or [pin for pin in pins if len(pin.minors()) < 4]
    if asked and _number(asked) < _number("3.7"):
        return "3.7 is the oldest Python that a run can use" + (", and every pin has a wheel for it" if pins else "")
    if narrow:
        return f"{narrow[0].requirement} has wheels for Python {_shown(narrow[0].minors())}"
    return f"this host has no Python {asked}; {minor} is the nearest that every pin fits"


def _distance(wanted: str, minor: str) -> int:
    return abs(_number(wanted) - _number(minor))


def _number(minor: str) -> int:
    return int(minor.split(".")[1])


def _parse(line: str) -> Optional[Requirement]:
    found = _requirement(line)
    return None if found is None or found.url else found


def _requirement(line: str) -> Optional[Requirement]:
    try:
        return Requirement(without_options(line))
    except InvalidRequirement:
        return None


def _applies(requirement: Optional[Requirement], version: str) -> bool:
    if requirement is None or requirement.marker is None:
        return True
    facts = {"python_version": ".".join(version.split(".")[:2]), "python_full_version": version, "extra": ""}
    try:
        return requirement.marker.evaluate(facts)
    except ValueError:
        return True  # A comparison that means nothing: the resolver says so.


def _is_bounded(requirement: Requirement) -> bool:
    return any(one.operator in ("==", "===", "~=", "<", "<=") for one in requirement.specifier)
