"""Where an interactive run's metrics go, and what it is told of those that the server refuses."""

from types import SimpleNamespace
from typing import Any

import pytest

from runyard.errors import UserErrorException
from runyard.protocol.metrics import MetricsReply, decode_batch
from runyard.sdk.run import Run


class Place:
    """A workspace whose server refuses metrics where it is told to."""

    def __init__(self) -> None:
        self.name = "here"
        self.refuses = False
        self.changes: list[Any] = []

    def _call(self, request: str, body: Any, _query: Any, **_path: Any) -> Any:
        if request == "change_run":
            self.changes.append(body.status)
            return SimpleNamespace(status=body.status)
        assert request == "add_metrics"
        if self.refuses:
            raise UserErrorException("A run has too many names of metrics.")
        return MetricsReply(decode_batch(body).last)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def run(place: Place) -> Run:
    experiment = SimpleNamespace(name="by-hand", workspace=place)
    return Run(experiment, "run-1", _record=SimpleNamespace(status="Running"), _is_interactive=True)


def test_run_ends_and_says_that_its_metrics_were_refused(place: Place, run: Run) -> None:
    place.refuses = True
    run.log("loss", 0.5)
    with pytest.raises(UserErrorException, match="too many names"):
        run.complete()
    assert place.changes == ["Completed"]


def test_refusal_is_told_once_and_nobody_waits(place: Place, run: Run) -> None:
    place.refuses = True
    run.log("loss", 0.5)
    with pytest.raises(UserErrorException, match="too many names"):
        run.flush(timeout_seconds=1)
    run.log("loss", 0.25)
    run.flush(timeout_seconds=1)
    run.complete()
    assert place.changes == ["Completed"]


def test_run_whose_metrics_are_taken_ends_quietly(place: Place, run: Run) -> None:
    run.log("loss", 0.5)
    run.complete()
    assert place.changes == ["Completed"]
