"""How results look: calm tables for a person, JSON for a program."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from runyard.protocol.wire import to_wire

#: Columns of a table that goes into a pipe.
WIDE = 250


def show(value: Any, as_json: bool, columns: Sequence[str] = (), rows: Iterable[Sequence[Any]] = ()) -> None:
    """Print ``value`` as JSON, or the rows as a table."""
    if as_json:
        print(json.dumps(to_wire(value), indent=2, ensure_ascii=False))
        return
    # Loaded only where a person looks: it costs more than the request.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*["" if cell is None else str(cell) for cell in row])
        count += 1
    if count:
        # Into a pipe nothing is folded: a program may read it.
        Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    else:
        print("None yet.")


def tell(value: Any, as_json: bool, sentence: str) -> None:
    """Print what was done, as JSON or as a sentence."""
    if as_json:
        show(value, True)
    else:
        print(sentence)


def show_facts(value: Any, as_json: bool, facts: Iterable[tuple[str, Any]]) -> None:
    """Print ``value`` as JSON, or facts as aligned lines."""
    if as_json:
        print(json.dumps(to_wire(value), indent=2, ensure_ascii=False))
        return
    kept = [(name, text) for name, text in facts if text not in (None, "", {}, ())]
    width = max((len(name) for name, _ in kept), default=0)
    for name, text in kept:
        print(f"{name:<{width}}  {text}")


def shown_time(at: int | None) -> str:
    """UTC microseconds as local time."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1_000_000))


def shown_size(count: int) -> str:
    """A count of bytes in the largest unit that it fills."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def say(text: str) -> None:
    """A line for a person; kept apart from what programs read."""
    print(text, file=sys.stderr)
