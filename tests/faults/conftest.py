"""A house for each test, and nothing left of it afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.house import House


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("RUNYARD_LOCAL_SLOTS", "2")
    found = House(tmp_path)
    try:
        yield found
    finally:
        found.clean()
