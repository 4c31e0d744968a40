"""Counts as users write them: what is a whole number, and what only looks like one."""

from typing import Any, Optional


def whole_number(given: Any) -> Optional[int]:
    """The whole number that ``given`` is, or is written as; None for all else: 2.7 nodes are not 2."""
    try:
        found = int(given)
    except (TypeError, ValueError, OverflowError):
        return None
    is_exact = isinstance(given, str) or (not isinstance(given, bool) and found == given)
    return found if is_exact else None
