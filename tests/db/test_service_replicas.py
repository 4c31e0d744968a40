"""Which runs are replicas of a service: written beside the run, and believed of no other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.control import runs as life
from runyard.db import experiments, runs, services, workspaces
from runyard.db.engine import Database
from runyard.protocol.runs import RunError, RunSpec
from runyard.protocol.services import ServiceSpec
from runyard.protocol.workspaces import WorkspaceSpec

NOW = 1_000


class Yard:
    """A database with a service."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.do(lambda c: workspaces.create_workspace(c, WorkspaceSpec("ws"), "ann", NOW))
        self.do(lambda c: experiments.create_experiment(c, "ws", "services", "ann", NOW))
        self.do(lambda c: services.create_service(c, "s1", ServiceSpec("digits"), "", "ws", "ann", NOW))
        self.row = self.do(lambda c: services.get_row(c, "ws", "digits"))

    def do(self, operation: Any) -> Any:
        return self.database.write(operation)

    def submit(self, run_id: str, revision: int | None = 1, **labels: Any) -> None:
        spec = RunSpec(run_id, "services", script="x.py", **labels)
        self.do(lambda c: runs.create_run(c, spec, "ws", "ann", NOW))
        if revision is not None:
            self.do(lambda c: services.add_replica(c, self.row, revision, run_id, NOW))

    def fail(self, run_id: str, now: int) -> None:
        self.do(lambda c: life.fail(c, run_id, RunError("UserError", "It ended."), now))

    def found(self, run_id: str) -> Any:
        return self.do(lambda c: services.find_replica(c, run_id))


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path / "yard.db")
    yield made
    made.database.close()


def test_run_with_the_labels_of_a_replica_is_none(yard: Yard) -> None:
    yard.submit("mine", None, properties={"runyard.service": "digits", "runyard.service_revision": "1"})
    yard.submit("one", 3)
    assert yard.found("mine") is None
    assert (yard.found("one").name, yard.found("one").of_revision) == ("digits", 3)


def test_run_that_ends_is_no_replica_any_more(yard: Yard) -> None:
    yard.submit("canceled")
    yard.submit("failed")
    yard.do(lambda c: life.request_cancel(c, "ws", "canceled", "ann", NOW))
    yard.fail("failed", NOW)
    assert (yard.found("canceled"), yard.found("failed")) == (None, None)
    # Both are known still: by how they ended the next one is paused, or the revision fails.
    listed = yard.do(lambda c: services.list_replicas(c, "s1"))
    assert [(one.run_id, one.status) for one in listed] == [("canceled", "Starting"), ("failed", "Failed")]


def test_first_time_that_a_replica_is_ready_counts(yard: Yard) -> None:
    yard.submit("one")
    for now in (NOW + 5, NOW + 9):
        yard.do(lambda c, now=now: services.note_ready(c, "one", now))
    (listed,) = yard.do(lambda c: services.list_replicas(c))
    assert listed.ready_at == NOW + 5


def test_service_that_loses_replicas_for_months_remembers_the_last_ones(yard: Yard) -> None:
    yard.submit("lives")
    for number in range(services.REPLICAS_REMEMBERED + 15):
        yard.submit(f"r{number}")
        yard.fail(f"r{number}", NOW + number)
    yard.submit("last")
    listed = [one.run_id for one in yard.do(lambda c: services.list_replicas(c, "s1"))]
    assert len(listed) == services.REPLICAS_REMEMBERED + 2
    assert listed[0] == "lives"
    assert listed[-2:] == [f"r{services.REPLICAS_REMEMBERED + 14}", "last"]
    yard.do(lambda c: services.remove(c, "s1"))
    assert yard.do(lambda c: services.list_replicas(c)) == []
