"""What is not there is answered with names that are near to it, of its workspace alone."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.db import datasets
from runyard.db.near import NAMES_MAX
from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.identity import Principal, PrincipalKind
from tests.server.application import Application

#: How each noun is asked for by its name.
ASKED = {
    "model": "get_model", "dataset": "find_dataset", "environment": "get_environment", "service": "get_service",
    "compute target": "get_cluster", "datastore": "get_datastore",
}  # fmt: skip


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    for name in ("here", "there"):
        found.add_workspace(name)
    yield found
    found.close()


def _add_one_of_each(app: Application, workspace: str, name: str) -> None:
    folder = app.home.parent / f"{workspace}-{name}"
    folder.mkdir()
    (digest,) = app.parts.store.put_many([b"weights"])
    file = {"path": "m.pkl", "digest": digest, "size_bytes": 7}
    source = {"datastore": "workspaceblobstore", "path": "digits"}
    bodies: dict[str, Any] = {
        "register_model": {"name": name, "files": [file], "framework": "ScikitLearn"},
        "save_dataset": {"name": name, "kind": "file", "sources": [source]},
        "register_environment": {"spec": {"name": name}},
        "create_cluster": {"name": name, "vm_size": "STANDARD_D2_V2"},
        "register_datastore": {"name": name, "kind": "folder", "root": str(folder)},
        "deploy_service": {"name": name, "compute_type": "ACI", "models": [name]},
    }
    for request, body in bodies.items():
        reply = app.ask(request, body, workspace=workspace)
        assert reply.status < 300, (request, reply.body)


def _sentence(app: Application, noun: str, name: str, workspace: str = "here", query: str = "") -> str:
    reply = app.ask(ASKED[noun], query=query, workspace=workspace, name=name)
    assert reply.status == (400 if noun == "compute target" else 404), reply.body
    found: str = reply.error["message"]
    return found


def test_each_noun_says_which_names_are_near_and_none_of_another_workspace(app: Application) -> None:
    _add_one_of_each(app, "here", "digits-two")
    _add_one_of_each(app, "there", "digits-three")
    for noun in ASKED:
        assert _sentence(app, noun, "digits-tow").endswith(" Did you mean 'digits-two'?"), noun
        assert _sentence(app, noun, "DIGITS-TWO").endswith(" Did you mean 'digits-two'?"), noun
        assert "Did you mean" not in _sentence(app, noun, "weather"), noun
        assert _sentence(app, noun, "digits-tow", "there").endswith(" Did you mean 'digits-three'?"), noun


def test_what_is_gone_is_not_offered_and_another_version_is_no_other_name(app: Application) -> None:
    _add_one_of_each(app, "here", "digits")
    for noun in ("model", "dataset", "environment"):
        assert "Did you mean" not in _sentence(app, noun, "digits", query="version=9"), noun
    assert app.ask("delete_model", workspace="here", name="digits", version="1").status < 300
    assert app.ask("unregister_dataset", workspace="here", name="digits").status < 300
    for noun in ("model", "dataset"):
        assert "Did you mean" not in _sentence(app, noun, "digit"), noun


def test_run_is_told_only_names_that_it_may_list(app: Application) -> None:
    _add_one_of_each(app, "here", "digits")
    app.add_run("here", "run-1")
    run = app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"))
    for noun in ("service", "compute target"):
        reply = app.ask(ASKED[noun], token=run, workspace="here", name="digit")
        assert (reply.status, b"digits" in reply.body) == (403, False), noun


def test_many_long_names_that_are_alike_hold_nobody_up(app: Application) -> None:
    def write(connection: Any) -> None:
        for number in range(2 * NAMES_MAX):
            spec = DatasetSpec(
                (Source(datastore="workspaceblobstore", path="digits"),), name="a" * 190 + f"{number:04}"
            )
            datasets.save_dataset(connection, spec, "here", "ann", 1)

    app.parts.database.write(write)
    began = time.process_time()
    _sentence(app, "dataset", "a" * 199)
    assert time.process_time() - began < 3
