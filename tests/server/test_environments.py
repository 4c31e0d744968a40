"""Environments over the wire: curated ones by name, and the names that they reserve."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.application import Application


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    found.add_workspace("here")
    yield found
    found.close()


def test_curated_environment_is_found_in_any_case(app: Application) -> None:
    found = app.ask("get_environment", workspace="here", name="azureml-tensorflow-2.2-gpu").json
    assert (found["name"], found["is_curated"]) == ("AzureML-TensorFlow-2.2-GPU", True)


def test_unknown_curated_name_is_answered_with_those_alike(app: Application) -> None:
    reply = app.ask("get_environment", workspace="here", name="AzureML-TensorFlow-9.9-GPU")
    assert (reply.status, reply.error["type"]) == (404, "NotFoundError")
    assert "AzureML-TensorFlow-2.2-GPU" in reply.error["message"]


def test_reserved_name_is_refused(app: Application) -> None:
    reply = app.ask("register_environment", {"spec": {"name": "AzureML-mine"}}, workspace="here")
    assert (reply.status, "reserved" in reply.error["message"]) == (400, True)


@pytest.mark.parametrize(
    ("request_name", "body"),
    [
        ("register_environment", {"spec": {"name": "mine", "python": {"as_of": "yesterday"}}}),
        ("build_environment", {"spec": {"name": "mine", "python": {"as_of": "yesterday"}}}),
        ("submit_run", {"run_id": "a", "experiment": "trial", "script": "t.py",
                        "environment": {"python": {"as_of": "yesterday"}}}),
    ],
)  # fmt: skip
def test_day_that_is_none_is_refused(app: Application, request_name: str, body: dict[str, object]) -> None:
    reply = app.ask(request_name, body, workspace="here")
    assert (reply.status, reply.error["message"]) == (
        400,
        "python.as_of is a day, written YYYY-MM-DD, not 'yesterday'.",
    )
