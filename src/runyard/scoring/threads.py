"""How many threads a framework computes with: several requests at once are several replicas."""

import os

from runyard.protocol.scoring import THREADS_VARIABLE


def threads() -> int:
    """As many as were asked for, and no more than there are cores; 1 where nobody has said."""
    try:
        return max(1, min(int(os.environ[THREADS_VARIABLE]), os.cpu_count() or 1))
    except (KeyError, ValueError):
        return 1


def hold_threads() -> None:
    """As ``threads`` for libraries that read the variable themselves: OpenMP ends a process that gets too few."""
    text = os.environ.get(THREADS_VARIABLE, "")
    if text.isdecimal() and int(text) > threads():
        os.environ[THREADS_VARIABLE] = str(threads())
