"""A house for each test, and nothing left of it afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.house import House


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[House]:
    """A test may ask for another isolation of its jobs than this host's own by an indirect parameter."""
    monkeypatch.setenv("RUNYARD_LOCAL_SLOTS", "2")
    monkeypatch.setenv("RUNYARD_ISOLATION", getattr(request, "param", ""))
    found = House(tmp_path)
    try:
        yield found
    finally:
        found.clean()
