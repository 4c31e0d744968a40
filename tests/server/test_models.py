"""Who may register a model of what."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.protocol.identity import Principal, PrincipalKind
from tests.server.application import Application


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    for run_id in ("run-1", "run-2"):
        found.add_run("here", run_id)
    yield found
    found.close()


def test_run_registers_files_that_it_sent_as_its_own_and_nobody_elses(app: Application) -> None:
    run = app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"))
    (digest,) = app.parts.store.put_many([b"weights"])
    spec = {"name": "m", "files": [{"path": "m.pkl", "digest": digest, "size_bytes": 7}]}
    made = app.ask("register_model", {**spec, "run_id": "run-1"}, run, workspace="here").json
    assert (made["run_id"], made["experiment"], made["version"]) == ("run-1", "trial", 1)
    for other in ({}, {"run_id": "run-2"}):
        reply = app.ask("register_model", {**spec, **other}, run, workspace="here")
        assert (reply.status, reply.error["message"]) == (400, "A run registers models from its own files only.")
    reply = app.ask("register_model", {**spec, "run_id": "run-1"}, workspace="here")
    assert reply.status == 400
    assert "not from both" in reply.error["message"]


def test_model_names_so_many_datasets_and_each_once(app: Application) -> None:
    (digest,) = app.parts.store.put_many([b"weights"])
    app.ask("register_model", {"name": "m", "files": [{"path": "m.pkl", "digest": digest, "size_bytes": 7}]},
            workspace="here")  # fmt: skip
    where = {"workspace": "here", "name": "m", "version": "1"}
    for _ in range(2):
        made = app.ask("change_model", {"datasets": [["training", "one"]], "resources": {"cpu": 2}}, **where).json
        assert (made["datasets"], made["resources"]["cpu"]) == ([["training", "one"]], 2)
    reply = app.ask("change_model", {"datasets": [["training", str(number)] for number in range(1000)]}, **where)
    assert (reply.status, reply.error["message"]) == (400, "A model comes from at most 1000 datasets, not 1001.")
