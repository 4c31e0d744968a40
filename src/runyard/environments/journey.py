"""How a file's wish is met on this host: which Python, as of which day, what is built from source, and what is told."""

import datetime
import os
from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

from packaging.requirements import Requirement

from runyard.environments.index import Index, index_urls
from runyard.environments.pins import (
    OLDEST_PYTHON,
    PipWish,
    choose_interpreter,
    python_note,
    requirement_name,
    wanted_minor,
    without_options,
)
from runyard.environments.pythons import Interpreter, find_interpreters, minor_of, running_minor
from runyard.environments.recipes import source_build, split_sources, why_built
from runyard.environments.time_machine import (
    Pin,
    applying,
    as_of,
    as_of_note,
    day_of,
    find_pins,
    is_old,
    nearest,
    python_why,
)
from runyard.environments.uv import Log, run_uv, tool_environment
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import Note, PythonSpec, SourceBuild
from runyard.protocol.record import record

#: Longest wait for a Python that uv fetches, seconds.
FETCH_TIMEOUT_S = 300.0


@record
class Journey:
    """What was decided before the resolver is asked."""

    interpreter: Interpreter
    #: YYYY-MM-DD; None: today.
    as_of: Optional[str]
    requirements: Tuple[str, ...]
    sources: Tuple[SourceBuild, ...]
    #: What differs from the file, and why.
    notes: Tuple[Note, ...]
    #: The newest pin's day and what to tell of it: for pins that are not old, and may be beyond today's packages still.
    earlier: Optional[Tuple[str, Note]] = None

    def back_in_time(self) -> Optional["Journey"]:
        """As of the pins' day, where today's packages do not fit them; None where that is no other day."""
        if self.as_of is not None or self.earlier is None:
            return None
        day, note = self.earlier
        return replace(self, as_of=day, notes=(*self.notes, note), earlier=None)


def plan_journey(spec: PythonSpec, wish: PipWish, available: Sequence[Interpreter], uv: str, log: Log) -> Journey:
    """Choose; EnvironmentBuildError names the pin that no Python here fits. Asks the index about pins only."""
    urls = index_urls(wish.options, tool_environment(os.environ))
    index = Index(urls, log)
    asked = applying(wish.requirements, (wanted_minor(wish.python) or running_minor()) + ".0")
    interpreter, python = _interpreter(wish, find_pins(asked, index), available, uv, log)
    # The Python that was found may be another one: then other lines count.
    requirements = applying(wish.requirements, ".".join(str(part) for part in interpreter.version))
    pins = find_pins(requirements, index)
    notes = list(wish.notes) + ([] if python is None else [python])
    earlier, is_due = _day(pins)
    then = spec.as_of
    if then is None and earlier is not None and is_due:
        then, note = earlier
        notes.append(note)
    plain, special = split_sources(requirements)
    sources = tuple(_source(line, index, then, plain, log) for line in special)
    return Journey(interpreter, then, tuple(plain), sources, tuple(notes), earlier)


def _interpreter(
    wish: PipWish, pins: Sequence[Pin], available: Sequence[Interpreter], uv: str, log: Log
) -> Tuple[Interpreter, Optional[Note]]:
    """The exact minor version that is asked for; else the nearest that every pin fits, with a note."""
    wanted = wanted_minor(wish.python)
    usable = [one for one in available if one.version[:2] >= OLDEST_PYTHON]
    if wanted is not None and not any(minor_of(one) == wanted for one in usable):
        usable += _fetch(wanted, uv, log)
    try:
        found = choose_interpreter(wish.python, usable, running_minor())
    except EnvironmentBuildError:
        if wanted is None or not usable:
            raise
        found = nearest(wanted, pins, usable)
        return found, Note(
            "python", wish.python.lstrip("="), minor_of(found), python_why(wanted, minor_of(found), pins)
        )
    if not wish.python and not all(pin.fits(minor_of(found)) for pin in pins):
        found = nearest(minor_of(found), pins, usable)
        return found, Note("python", "any", minor_of(found), python_why("", minor_of(found), pins))
    return found, python_note(wish.python, found)


def _fetch(minor: str, uv: str, log: Log) -> List[Interpreter]:
    """That Python, fetched by uv; empty where it cannot be had or RUNYARD_FETCH_PYTHON=0 forbids it."""
    is_too_old = tuple(int(part) for part in minor.split(".")) < OLDEST_PYTHON
    if is_too_old or os.environ.get("RUNYARD_FETCH_PYTHON") == "0":
        return []
    log(f"This host has no Python {minor}; uv fetches one.")
    try:
        result = run_uv(uv, ["python", "install", minor], folder="/", log=log, timeout_s=FETCH_TIMEOUT_S)
    except EnvironmentBuildError as error:
        log(str(error))
        return []
    return [] if result.code else [one for one in find_interpreters() if minor_of(one) == minor]


def _day(pins: Sequence[Pin]) -> Tuple[Optional[Tuple[str, Note]], bool]:
    """The day that suits the pins, with its note; and whether the pins are so old that today need not be tried."""
    found, today = day_of(pins), datetime.datetime.now(datetime.timezone.utc).date()
    then = None if found is None else as_of(found[0], today)
    if found is None or then is None:
        return None, False
    return (then, as_of_note(*found, then)), is_old(found[0], today)


def _source(line: str, index: Index, then: Optional[str], beside: Sequence[str], log: Log) -> SourceBuild:
    """How a line with a recipe is built; an open one means the newest release of the day."""
    wanted = Requirement(without_options(line))
    fitting = [
        one
        for one in index.releases(wanted.name)
        if wanted.specifier.contains(one.version) and _is_of(one.uploaded, then)
    ]
    if not fitting:
        raise EnvironmentBuildError(f"{line} does not exist in the package index.", hint="Pin a version that exists.")
    name = requirement_name(line)
    log(f"{name} is built from its source on the node, since {why_built(name)}.")
    return source_build(line, str(fitting[0].version), [requirement_name(one) for one in beside])


def _is_of(uploaded: Optional[str], then: Optional[str]) -> bool:
    return then is None or uploaded is None or uploaded <= then
