"""A progress line on a terminal; silent elsewhere. Standard library, since a job may use it."""

import sys
import time
from typing import IO, Optional

#: Between two drawings, seconds.
DRAW_S = 0.1
_WIDTH = 28


class Progress:
    """How far ``total_bytes`` and ``total_files`` are; use as a context."""

    def __init__(self, what: str, total_bytes: int, total_files: int, show: bool = True, to: Optional[IO[str]] = None):
        self._what = what
        self._to = to or sys.stderr
        self._total_bytes = total_bytes
        self._total_files = total_files
        self._is_shown = show and self._to.isatty()
        self._bytes = self._files = 0
        self._drawn_at = self._begun_at = time.monotonic()

    def __enter__(self) -> "Progress":
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        if self._is_shown:
            self._to.write("\n")

    def add_bytes(self, count: int) -> None:
        """So many bytes more."""
        self._bytes += count
        if self._is_shown and time.monotonic() - self._drawn_at >= DRAW_S:
            self._draw()

    def add_file(self) -> None:
        """One file more."""
        self._files += 1

    def _draw(self) -> None:
        if not self._is_shown:
            return
        self._drawn_at = time.monotonic()
        share = 1.0 if self._total_bytes == 0 else min(1.0, self._bytes / self._total_bytes)
        bar = "#" * int(share * _WIDTH)
        rate = self._bytes / max(1e-3, self._drawn_at - self._begun_at)
        self._to.write(
            "\r{} [{:<{}}] {:3.0f} %  {}/{} files  {}/s ".format(
                self._what, bar, _WIDTH, share * 100, self._files, self._total_files, shown_size(rate)
            )
        )
        self._to.flush()


def shown_size(size_bytes: float) -> str:
    """Bytes for a person: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
