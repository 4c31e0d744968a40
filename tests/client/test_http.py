"""The connection to a server: errors as they were raised over there, and a server that comes back elsewhere."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard import errors
from runyard.client.http import Server, file_resolver
from runyard.errors import RunyardError, ServerUnreachableError, ServiceException, UserErrorException
from runyard.server.dispatch import _STATUS, _error


class Peer:
    """A web server that answers each request with what the test laid ready."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.seen: list[tuple[str, str]] = []
        #: How many requests to break off without a reply.
        self.breaks = 0
        #: How many replies to break off in the middle of their body.
        self.cuts = 0
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                peer.seen.append((self.command, self.path))
                if peer.breaks:
                    peer.breaks -= 1
                    self.close_connection = True
                    return
                self.send_response(peer.status)
                self.send_header("Content-Length", str(len(peer.body)))
                self.end_headers()
                if peer.cuts:
                    peer.cuts -= 1
                    self.close_connection = True
                    self.wfile.write(peer.body[: len(peer.body) // 2])
                    return
                self.wfile.write(peer.body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.close()


@pytest.fixture
def server(peer: Peer) -> Iterator[Server]:
    found = Server(lambda: peer.url, "token", patience_s=2)
    yield found
    found.close()


CLASSES = [
    one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, RunyardError)
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES, ids=lambda one: one.__name__)
def test_error_of_the_server_is_raised_here_as_the_same_class(peer: Peer, server: Server, kind: type) -> None:
    reply = _error(kind("What happened.", hint="What to do."))
    peer.status, peer.body = reply.status_code, bytes(reply.body)
    with pytest.raises(RunyardError) as caught:
        server.call("ping")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("What happened.", "What to do.")


def test_every_error_has_a_status() -> None:
    for kind in CLASSES:
        assert next(status for one, status in _STATUS if issubclass(kind, one)) >= 400


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"{}", b"[]", b'{"error": 1}', b'{"error": {"type": "X"}}', b"\xff"]
)
def test_answer_of_something_else_is_a_service_error(peer: Peer, server: Server, body: bytes) -> None:
    peer.status, peer.body = 502, body
    with pytest.raises(ServiceException, match="502"):
        server.call("ping")


@pytest.mark.parametrize("name", ["open", "Exception", "Optional", "__doc__", "no_such"])
def test_name_that_is_no_error_of_ours_is_a_service_error(peer: Peer, server: Server, name: str) -> None:
    peer.status, peer.body = 500, json.dumps({"error": {"type": name, "message": "m"}}).encode()
    with pytest.raises(ServiceException, match=r"^m$"):
        server.call("ping")


def test_names_are_quoted_into_the_address(peer: Peer, server: Server) -> None:
    peer.body = b"[]"
    with pytest.raises(RunyardError):
        server.call("get_datastore", workspace="a b", name="..x?y#z")
    assert peer.seen[-1] == ("GET", "/api/1/workspaces/a%20b/datastores/..x%3Fy%23z")
    for name in ("", "a/b", None):
        with pytest.raises(UserErrorException, match="a name is a text without"):
            server.call("get_datastore", workspace="a", name=name)


def test_request_that_may_be_repeated_is_sent_again(peer: Peer, server: Server) -> None:
    peer.breaks, peer.body = 2, b'{"name": "runyard", "version": "1", "api": 1}'
    assert server.call("ping").name == "runyard"
    assert len(peer.seen) == 3


def test_request_that_may_not_be_repeated_is_sent_once(peer: Peer, server: Server) -> None:
    peer.breaks = 1
    with pytest.raises(ServerUnreachableError, match="register_model"):
        server.call("register_model", body={"name": "x"}, workspace="ws")
    assert [method for method, _ in peer.seen] == ["POST"]


PONG = b'{"name": "runyard", "version": "1", "api": 1}'


def test_reply_that_breaks_off_in_its_body_is_asked_for_again(peer: Peer, server: Server) -> None:
    peer.cuts, peer.body = 2, PONG
    assert server.call("ping").name == "runyard"
    assert len(peer.seen) == 3


def test_reply_that_breaks_off_is_an_error_of_ours_where_the_request_may_not_be_repeated(
    peer: Peer, server: Server
) -> None:
    peer.cuts, peer.body = 1, b'{"name": "x"}'
    with pytest.raises(ServerUnreachableError, match="register_model"):
        server.call("register_model", body={"name": "x"}, workspace="ws")
    assert [method for method, _ in peer.seen] == ["POST"]


@pytest.mark.parametrize("is_closed", [False, True], ids=["forgotten", "closed"])
def test_stream_that_is_given_up_leaves_the_next_request_alone(peer: Peer, server: Server, is_closed: bool) -> None:
    peer.body = bytes(4 << 20)
    pieces = server.stream("read_blob", workspace="ws", digest="d")
    next(pieces)
    if is_closed:
        pieces.close()  # type: ignore[attr-defined]
    peer.body = b'{"upload_id": "u"}'
    assert server.call("begin_upload", workspace="ws").upload_id == "u"
    assert [path.rpartition("/")[2] for _, path in peer.seen] == ["d", "uploads"]


def test_request_may_be_made_between_two_pieces_of_a_stream(peer: Peer, server: Server) -> None:
    peer.body = bytes(4 << 20)
    pieces = server.stream("read_blob", workspace="ws", digest="d")
    size = len(next(pieces))
    peer.body = PONG
    assert server.call("ping").name == "runyard"
    assert size + sum(len(piece) for piece in pieces) == 4 << 20


def test_server_that_is_not_there_is_named_after_the_patience(tmp_path: Path) -> None:
    lost = Server(lambda: "http://127.0.0.1:9", "token", patience_s=0.1)
    with pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:9"):
        lost.call("ping")
    lost.close()


def test_restarted_server_is_found_on_its_new_port(tmp_path: Path, peer: Peer) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps({"url": peer.url}))
    peer.body = b'{"name": "old", "version": "1", "api": 1}'
    server = Server(file_resolver(path), "token", patience_s=5)
    assert server.call("ping").name == "old"
    other = Peer()
    try:
        other.body = b'{"name": "new", "version": "1", "api": 1}'
        path.write_text(json.dumps({"url": other.url}))
        peer.breaks = 10
        assert server.call("ping").name == "new"
    finally:
        server.close()
        other.close()


def test_address_is_remembered_while_the_file_is_away(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    resolve = file_resolver(path, "http://127.0.0.1:1")
    assert resolve() == "http://127.0.0.1:1"
    path.write_text('{"url": "http://127.0.0.1:2"}')
    assert resolve() == "http://127.0.0.1:2"
    path.write_text("{half a fi")
    assert resolve() == "http://127.0.0.1:2"
    path.unlink()
    assert resolve() == "http://127.0.0.1:2"


def test_threads_have_connections_of_their_own(peer: Peer, server: Server) -> None:
    peer.body = b'{"name": "runyard", "version": "1", "api": 1}'
    found: list[str] = []

    def ask() -> None:
        for _ in range(20):
            found.append(server.call("ping").name)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == ["runyard"] * 80
