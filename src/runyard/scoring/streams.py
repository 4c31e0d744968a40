"""What a model prints: it goes to the service's log, and where that cannot take it, the model goes on without."""

import io
import os
import sys
from typing import Any, BinaryIO, cast


def keep_printing() -> None:
    """From now on, nothing that is printed fails: neither on a full disk nor where nobody reads."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(getattr(stream, "buffer", None), _Log):
            continue
        try:
            log = _Log(stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue  # It is no file.
        text = io.TextIOWrapper(cast(BinaryIO, log), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, text)


class _Log(io.BufferedIOBase):
    """A file as it is open, whose errors are nobody's."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._number, rest) :]
        except OSError:
            pass
        return size
