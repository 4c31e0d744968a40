"""Who may say what a dataset was when it was seen first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.db import lineage
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.lineage import DatasetUse, Direction
from tests.server.application import Application, now_us

SEEN = {"url": "https://example.org/x", "size_bytes": 1, "sha256": "0" * 64}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    yield found
    found.close()


def _save(app: Application, **spec: Any) -> str:
    body = {"sources": [{"url": SEEN["url"]}], **spec}
    return str(app.ask("save_dataset", body, workspace="here").json["id"])


def _add_run(app: Application, run_id: str, dataset_id: str, direction: str = Direction.INPUT) -> None:
    app.add_run("here", run_id)
    use = DatasetUse(run_id, dataset_id, direction, "x", now_us())
    app.parts.database.write(lambda c: lineage.add_use(c, "here", use, "ann"))


def _note(app: Application, run_id: str, dataset_id: str, **body: Any) -> Any:
    token = app.add_token(Principal(PrincipalKind.RUN, "run:" + run_id, "run", "here", run_id), 60)
    names = {"workspace": "here", "run_id": run_id, "dataset_id": dataset_id}
    return app.ask("note_dataset_files", body, token, **names)


def test_run_says_nothing_of_a_dataset_that_it_does_not_read(app: Application) -> None:
    mine, other = _save(app), _save(app)
    _add_run(app, "reads", mine)
    refused = _note(app, "reads", other, files=[SEEN])
    assert refused.status == 404
    assert refused.error["message"] == f"Run reads has no dataset {other} as an input."
    assert _note(app, "reads", mine, files=[SEEN]).json == {"sentences": []}
    _add_run(app, "made", other, Direction.OUTPUT)
    assert _note(app, "made", other, files=[SEEN]).status == 404
    _add_run(app, "reads-other", other)
    assert _note(app, "reads-other", other, files=[{**SEEN, "sha256": "1" * 64}]).json == {"sentences": []}


def test_many_files_are_missed_by_their_number(app: Application) -> None:
    dataset = _save(app, name="many", totals={"count": 5_000, "size_bytes": None, "names": []})
    _add_run(app, "reads", dataset)
    assert _note(app, "reads", dataset, totals={"count": 5_001, "size_bytes": 9}).json == {"sentences": []}
    (sentence,) = _note(app, "reads", dataset, totals={"count": 4_997, "size_bytes": 1}).json["sentences"]
    assert sentence.startswith("3 of the 5000 files of dataset 'many' are gone since it was registered on ")
    refused = _note(app, "reads", dataset, totals={"count": -1})
    assert "not below 0" in refused.error["message"]
