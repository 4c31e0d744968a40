"""What a request records has its contents here, whichever request it is."""

from collections.abc import Iterator

import pytest

from runyard.protocol.identity import Principal, PrincipalKind
from tests.server.application import Application

MISSING = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    found = Application(tmp_path_factory.mktemp("contents") / "home")
    found.add_workspace("here")
    found.add_run("here", "run-1")
    yield found
    found.close()


@pytest.mark.parametrize("request_name", ["register_model", "add_artifacts", "report"])
@pytest.mark.parametrize(
    ("is_sent", "size", "sentence"),
    [
        (False, 7, "The content of 'outputs/m.pkl' is not on the server; send it first."),
        (True, 8, "'outputs/m.pkl' has another size than its content."),
    ],
)
def test_file_without_its_content_is_refused_alike(
    app: Application, request_name: str, is_sent: bool, size: int, sentence: str
) -> None:
    (digest,) = app.parts.store.put_many([b"weights"]) if is_sent else (MISSING,)
    file = {"path": "outputs/m.pkl", "digest": digest, "size_bytes": size}
    report = {"attempt": 1, "sequence": 1, "kind": "final", "at": 1, "artifacts": [file]}
    body = {
        "register_model": {"name": "m", "files": [file], "run_id": "run-1"},
        "add_artifacts": {"artifacts": [file]},
        "report": {"reports": [report]},
    }[request_name]
    token = app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"))
    path = {} if request_name == "register_model" else {"run_id": "run-1"}
    reply = app.ask(request_name, body, token, workspace="here", **path)
    assert (reply.status, reply.error["type"], reply.error["message"]) == (422, "IntegrityError", sentence)
