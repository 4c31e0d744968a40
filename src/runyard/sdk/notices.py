"""What is said of something that is old, or done otherwise here: once in a process, on standard error."""

import sys
from typing import Any, Iterable, Mapping, Set

_said: Set[str] = set()


def say_once(sentence: str) -> None:
    """Print it, unless this process has said it already."""
    if sentence not in _said:
        _said.add(sentence)
        print("Warning: " + sentence, file=sys.stderr)


def say_deprecated(name: str, instead: str) -> None:
    """Say that a parameter is out of date."""
    say_once(f"'{name}' is deprecated: use {instead}.")


def say_kept_of(given: Mapping[str, Any], why: str) -> None:
    """As ``say_kept``, of those of these parameters that are not None."""
    say_kept([name for name, value in given.items() if value is not None], why)


def say_kept(names: Iterable[str], why: str) -> None:
    """Say of each of v1's parameters that was given that it changes nothing here."""
    for name in names:
        say_once(f"{name!r} is kept and changes nothing here: {why}.")
