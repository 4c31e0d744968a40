"""Decoders are made at their first use: by several threads at once they are made whole, or not seen."""

import threading
import typing
from typing import Any, Optional, Tuple

import pytest

from runyard.protocol import wire
from runyard.protocol.record import record


@record
class Leaf:
    text: str


@record
class Branch:
    leaf: Leaf
    #: A type may contain itself.
    inner: "Optional[Branch]" = None
    count: int = 0


@record
class Crown:
    branches: Tuple[Branch, ...]
    first: Branch
    size: int = 1


DATA = {
    "branches": [{"leaf": {"text": "a"}, "inner": {"leaf": {"text": "b"}, "count": 2}, "count": 1}],
    "first": {"leaf": {"text": "c"}, "count": 3}, "size": 4,
}  # fmt: skip
WHOLE = Crown((Branch(Leaf("a"), Branch(Leaf("b"), None, 2), 1),), Branch(Leaf("c"), None, 3), 4)


def test_no_thread_sees_a_decoder_that_another_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lacks its fields takes no notice of them: values would be as if nobody had said them."""
    hints, begun, goes_on = typing.get_type_hints, threading.Event(), threading.Event()
    slow: list[threading.Thread] = []

    def look(kind: Any) -> Any:
        if kind is Leaf and threading.current_thread() in slow:
            begun.set()
            assert goes_on.wait(20)
        return hints(kind)

    monkeypatch.setattr(typing, "get_type_hints", look)
    found: list[Crown] = []
    thread = threading.Thread(target=lambda: found.append(wire.from_wire(Crown, DATA)))
    slow.append(thread)
    thread.start()
    try:
        assert begun.wait(20)
        assert wire.from_wire(Branch, DATA["first"]) == WHOLE.first
        assert wire.from_wire(Crown, DATA) == WHOLE
    finally:
        goes_on.set()
        thread.join()
    assert found == [WHOLE]
