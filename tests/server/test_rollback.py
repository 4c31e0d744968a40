"""To what a service goes back, of revisions that have answered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.db import services
from tests.server.application import Application, now_us


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    (digest,) = found.parts.store.put_many([b"weights"])
    file = {"path": "m.pkl", "digest": digest, "size_bytes": 7}
    for name in "abc":
        body = {"name": name, "files": [file], "framework": "ScikitLearn"}
        assert found.ask("register_model", body, workspace="here").status < 300
    body = {"name": "digits", "compute_type": "ACI", "models": ["a"]}
    assert found.ask("deploy_service", body, workspace="here").status < 300
    _has_answered(found)
    yield found
    found.close()


def _has_answered(app: Application) -> None:
    """What the loop would note of a revision once it can answer."""

    def write(connection: Any) -> None:
        row = services.get_row(connection, "here", "digits")
        services.change(connection, row.id, now_us(), good_revision=row.revision)

    app.parts.database.write(write)


def _change(app: Application, **change: Any) -> Any:
    reply = app.ask("change_service", change, workspace="here", name="digits")
    assert reply.status < 300, reply.body
    _has_answered(app)
    return reply.json["spec"]


def test_going_back_twice_is_back_again_and_never_two_steps(app: Application) -> None:
    for model in "bc":
        _change(app, models=[model])
    for expected in ("b:1", "c:1", "b:1"):
        assert _change(app, rollback=True)["models"] == [expected]


def test_a_revision_that_differs_by_labels_alone_is_nothing_to_go_back_to(app: Application) -> None:
    _change(app, models=["a"], tags={"team": "blue"})
    reply = app.ask("change_service", {"rollback": True}, workspace="here", name="digits")
    assert (reply.status, "no earlier revision to go back to" in reply.error["message"]) == (409, True)
    _change(app, models=["b"])
    _change(app, models=["b"], tags={"team": "red"})
    assert _change(app, rollback=True)["models"] == ["a:1"]
