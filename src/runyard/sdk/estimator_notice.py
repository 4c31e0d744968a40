"""What is said of an estimator that is old or done otherwise here: once in a process, on standard error."""

import sys
from typing import Set

_said: Set[str] = set()


def say_once(sentence: str) -> None:
    """Print it, unless this process has said it already."""
    if sentence not in _said:
        _said.add(sentence)
        print("Warning: " + sentence, file=sys.stderr)


def say_deprecated(name: str, instead: str) -> None:
    """Say that a parameter is out of date."""
    say_once(f"'{name}' is deprecated: use {instead}.")
