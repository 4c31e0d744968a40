"""How a count reads in a sentence."""


def counted(count: int, what: str) -> str:
    """``1 file``, ``2 files``; ``what`` is the word for one, whose plural is regular."""
    return f"{count} {what}" if count == 1 else f"{count} {_plural(what)}"


def last_few(count: int, what: str) -> str:
    """``the last run``, ``the last 3 runs``."""
    return f"the last {what}" if count == 1 else f"the last {counted(count, what)}"


def is_or_are(count: int) -> str:
    """The verb that goes with so many."""
    return "is" if count == 1 else "are"


def _plural(what: str) -> str:
    return what + ("es" if what.endswith("s") else "s")
