"""Runs as users see them: found by their labels, and told what they wait for."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update

from runyard.control import runs as life
from runyard.control.why import unblocked_by
from runyard.db import runs, tables
from runyard.protocol.compute import ClusterSpec, EngineKind, EngineSpec
from runyard.protocol.distributed import Distribution
from runyard.protocol.runs import Explanation, Run, RunSpec, RunStatus
from runyard.protocol.wire import loads
from tests.server.application import Application, now_us

FOREIGN = "Waits for 1 GPU of this machine's 2 to be free; GPU 0 is used by process 7, which is no run here."
KEYS = ["plain", 'with "quotes"', "back\\slash", "a.b[0]", "$", "", "'", "\U0001f9e8", "%"]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    for workspace in ("here", "there"):
        found.add_workspace(workspace)
    yield found
    found.close()


def _found(app: Application, labels: dict[str, str | None], name: str = "tags") -> list[str]:
    page = app.ask("list_runs", workspace="here", query=f"{name}={quote(json.dumps(labels))}").json
    return [one["id"] for one in page["runs"]]


@pytest.mark.parametrize("name", ["tags", "properties"])
@pytest.mark.parametrize("key", [one for one in KEYS if one])
def test_runs_are_found_by_a_label_whatever_its_key(app: Application, key: str, name: str) -> None:
    app.add_run("here", "run-1", **{name: {key: "1", "more": "x"}})
    app.add_run("here", "run-2", **{name: {key: "2"}})
    app.add_run("here", "run-3")
    assert _found(app, {key: "1"}, name) == ["run-1"]
    assert _found(app, {key: None}, name) == ["run-2", "run-1"]
    assert _found(app, {key: "1", "more": None}, name) == ["run-1"]
    assert _found(app, {key: "2", "more": "x"}, name) == []


def _advance(app: Application, run_id: str, *path: str, **changes: Any) -> None:
    def write(connection: Any) -> None:
        for before, after in pairwise(path):
            runs.advance(connection, run_id, before, after, now_us(), **(changes if after == path[-1] else {}))

    app.parts.database.write(write)


def _queue(app: Application, workspace: str, run_id: str, target: str, reason: str = "Waits.", **more: Any) -> None:
    app.add_run(workspace, run_id, target=target)
    _advance(app, run_id, "Starting", "Preparing", "Queued", reason=reason, **more)


def _why(app: Application, run_id: str) -> tuple[str, str]:
    found = app.ask("explain_run", workspace="here", run_id=run_id).json
    return found["waits_for"], found["unblocked_by"]


def test_place_counts_the_runs_of_the_same_cluster_only(app: Application) -> None:
    for workspace in ("here", "there"):
        assert app.ask("create_cluster", {"name": "small"}, workspace=workspace).status == 200
    _queue(app, "there", "other-1", "small")
    _queue(app, "here", "run-1", "small")
    _queue(app, "here", "run-2", "small")
    assert _why(app, "run-1")[0].endswith("It is the next one.")
    assert _why(app, "run-2")[0].endswith(" 1 run comes before it.")


def test_wait_is_estimated_from_the_runs_before(app: Application) -> None:
    assert app.ask("create_cluster", {"name": "small", "max_nodes": 1}, workspace="here").status == 200
    _queue(app, "here", "run-1", "small")
    assert app.ask("explain_run", workspace="here", run_id="run-1").json["estimate"] == "", "nothing to tell from"
    began = now_us()
    for number in range(3):
        _queue(app, "here", f"old-{number}", "small")
        _advance(app, f"old-{number}", "Queued", "Running", started_at=began - 600_000_000)
        _advance(app, f"old-{number}", "Running", "Completed")
    _queue(app, "here", "run-2", "small")
    said = [app.ask("explain_run", workspace="here", run_id=f"run-{number}").json["estimate"] for number in (1, 2)]
    assert said == [f"By the last 3 runs there, it may start in about {minutes} min." for minutes in (5, 15)]


@pytest.mark.parametrize(
    ("change", "reason", "helps"),
    [
        ({"is_stopped": True}, "Waits for 'small', which is stopped, to be started.", "runyard compute start small"),
        ({"max_nodes": 1}, "Waits for 2 nodes of 'small', which may have 1.", "update small --max-nodes 2"),
        ({}, "Waits for 4 GPUs, and this machine has 2: take a smaller size, or fewer nodes.", "smaller vm_size"),
        ({}, FOREIGN, "the end of what else uses them"),
    ],
)
def test_no_time_is_told_where_no_runs_end_helps(
    app: Application, change: dict[str, Any], reason: str, helps: str
) -> None:
    assert app.ask("create_cluster", {"name": "small", "max_nodes": 2}, workspace="here").status == 200
    _queue(app, "here", "old", "small")
    _advance(app, "old", "Queued", "Running", started_at=now_us() - 600_000_000)
    _advance(app, "old", "Running", "Completed")
    app.add_run("here", "run-1", target="small", node_count=2, distribution=Distribution("pytorch", process_count=2))
    _advance(app, "run-1", "Starting", "Preparing", "Queued", reason="Waits.")
    assert "it may start in about" in app.ask("explain_run", workspace="here", run_id="run-1").json["estimate"]
    if change:
        assert app.ask("change_cluster", change, workspace="here", name="small").status == 200
    app.parts.database.write(lambda connection: life.explain_wait(connection, "run-1", reason, now_us()))
    found = loads(Explanation, app.ask("explain_run", workspace="here", run_id="run-1").body)
    assert (found.estimate, found.waits_for) == ("", reason + " It is the next one.")
    assert helps in found.unblocked_by
    assert found.text.endswith(found.unblocked_by), "a command stands by itself"


def test_processes_that_are_too_many_are_counted_and_not_made(app: Application) -> None:
    asked = {"kind": "mpi", "process_count_per_node": 1_000_000}
    spec = {"run_id": "run-1", "experiment": "trial", "command": ["true"], "distribution": asked}
    tracemalloc.start()
    try:
        reply = app.ask("submit_run", spec, workspace="here")
        assert (reply.status, reply.error["message"]) == (400, "A run has at most 10000 processes, not 1000000.")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000, "one request must not fill the server's memory"
    finally:
        tracemalloc.stop()


def test_places_of_this_machine_are_for_every_workspace(app: Application) -> None:
    _queue(app, "there", "other-1", "local")
    _queue(app, "here", "run-1", "local")
    assert _why(app, "run-1")[0].endswith(" 1 run comes before it.")


def test_what_unblocks_a_run_follows_from_its_state(app: Application) -> None:
    assert app.ask("create_cluster", {"name": "small"}, workspace="here").status == 200
    _queue(app, "here", "run-1", "small")
    _queue(app, "here", "run-2", "gone")
    _queue(app, "here", "run-3", "local")
    app.add_run("here", "run-4")
    _advance(app, "run-4", "Starting", "Preparing", reason="Its environment is being built.")
    assert "update(max_nodes=...)" in _why(app, "run-1")[1]
    assert "create the compute target 'gone' again" in _why(app, "run-2")[1]
    assert "A local run that ends" in _why(app, "run-3")[1]
    assert "runyard run logs run-4 -f" in _why(app, "run-4")[1]
    _queue(app, "here", "run-5", "local")
    _advance(app, "run-5", "Queued", "Running", "NotResponding", reason="Its runner was not heard of for 30 seconds.")
    assert _why(app, "run-5")[1] == (
        "A word of its runner, after which it goes on; to give it up: runyard run cancel run-5"
    )
    _advance(app, "run-5", "NotResponding", "CancelRequested", reason="Its processes are ending.")
    assert _why(app, "run-5")[1].startswith("The end of its processes: they are killed after their grace")


@pytest.mark.parametrize("word", ["marketplace.csv", "busy.csv", "environment.yml", "what does not exist"])
def test_words_of_a_sentence_unblock_nothing(app: Application, word: str) -> None:
    _queue(app, "here", "run-1", "local", reason=f"Downloading {word}.", node="local", key="run-1/1")
    assert _why(app, "run-1") == (f"Downloading {word}.", "")


RAY = ClusterSpec("x", engine=EngineSpec(EngineKind.RAY))
SLURM = ClusterSpec("x", engine=EngineSpec(EngineKind.SLURM))
SSH = ClusterSpec("x", engine=EngineSpec(EngineKind.SSH))


@pytest.mark.parametrize(
    ("spec", "node", "reason", "says"),
    [
        (ClusterSpec("x"), None, FOREIGN, "the end of what else uses them"),
        (ClusterSpec("x"), None, "Waits for 4 GPUs, and this machine has 2: take less.", "a smaller vm_size"),
        (ClusterSpec("x"), None, "Waits for 2 GPUs of this machine's 2 to be free.", "A run with GPUs that ends."),
        (ClusterSpec("x"), "x-1", "Its data are fetched.", ""),
        (RAY, None, "Waits for a node.", "more nodes: update(max_nodes=...)"),
        (RAY, "x-1", "Waits for nodes.", "ray status"),
        (RAY, "x-1", "Waits for its compute target to answer: it is away.", "The answer of 'x'"),
        (SLURM, "local", "Waits in Slurm's queue.", "squeue"),
        (SSH, None, "Waits for its turn.", "one at a time"),
        (ClusterSpec("x", max_nodes=1, is_instance=True), None, "Waits for a node.", "a ComputeInstance is one node"),
    ],
)
def test_what_helps_is_what_can_be_done_there(spec: ClusterSpec, node: str | None, reason: str, says: str) -> None:
    run = Run("run-1", "here", "trial", 1, RunStatus.QUEUED, 1, "ann", 1, RunSpec("run-1", "trial"), "x", "run-1")
    found = unblocked_by(replace(run, node=node, reason=reason), spec)
    assert says in found
    assert bool(says) == bool(found)


def test_run_that_is_handed_over_is_estimated_by_the_waits_before(app: Application) -> None:
    assert app.ask("create_cluster", {"name": "far"}, workspace="here").status == 200
    for number in range(3):
        _queue(app, "here", f"old-{number}", "far")
        _advance(app, f"old-{number}", "Queued", "Running", started_at=now_us() + 600_000_000)
    _queue(app, "here", "run-1", "far", node="far-1", key="run-1/1")
    found = app.ask("explain_run", workspace="here", run_id="run-1").json
    assert found["estimate"] == "By the last 3 runs there, it may start in about 10 min."
    assert found["since"] <= now_us()


def test_builds_before_tell_how_long_a_build_takes(app: Application) -> None:
    _queue(app, "here", "old", "local")
    _advance(app, "old", "Queued", "Running", started_at=now_us())
    app.parts.database.write(
        lambda connection: connection.execute(
            update(tables.runs).values(created_at=tables.runs.c.queued_at - 120_000_000)
        )
    )
    app.add_run("here", "run-1")
    _advance(app, "run-1", "Starting", "Preparing", reason="Its environment is being built.")
    assert app.ask("explain_run", workspace="here", run_id="run-1").json["estimate"] == (
        "The last build took about 2 min."
    )


def test_run_waits_since_it_is_ready_whatever_it_waits_for(app: Application) -> None:
    """Else one whose reason changes would be passed by others for ever."""
    _queue(app, "here", "run-1", "local")
    since = app.ask("explain_run", workspace="here", run_id="run-1").json["since"]
    later = now_us() + 5_000_000
    app.parts.database.write(lambda connection: life.explain_wait(connection, "run-1", "Waits for else.", later))
    found = app.ask("explain_run", workspace="here", run_id="run-1").json
    assert (found["since"], found["waits_for"]) == (since, "Waits for else. It is the next one.")
    with app.parts.database.read() as connection:
        (row,) = runs.active_rows(connection)
    assert (row.queued_at, row.reason_at) == (since, later)


def test_two_inputs_of_one_name_are_refused(app: Application) -> None:
    inputs = [{"name": "data", "mode": "mount", "datastore": "workspaceblobstore", "path": one} for one in ("a", "b")]
    spec = {"run_id": "run-1", "experiment": "trial", "command": ["true"], "inputs": inputs}
    reply = app.ask("submit_run", spec, workspace="here")
    assert (reply.status, reply.error["message"]) == (400, "Two inputs of the run have the name 'data'.")
