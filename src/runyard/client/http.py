"""One server, spoken to by the route table: keep-alive, found again after a restart, errors as raised over there."""

import http.client
import json
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

from runyard import errors
from runyard.client.home import read_server_file
from runyard.errors import RunyardError, ServerUnreachableError, ServiceException, UserErrorException
from runyard.protocol import routes
from runyard.protocol.wire import from_wire, to_wire

#: How long one request may take without a byte, seconds; waits add their own time.
TIMEOUT_S = 60.0
#: How long a lost server is looked for before the error is shown, seconds.
PATIENCE_S = 15.0
#: Read size of streamed replies, bytes.
READ_BYTES = 1 << 20

_IDEMPOTENT = ("GET", "PUT", "DELETE")
_BROKEN = (http.client.HTTPException, ConnectionError, socket.timeout, socket.gaierror, ssl.SSLError, OSError)

Body = Union[bytes, None]


class Server:
    """A connection a thread to one server. ``resolve`` gives the present address, ``token`` who we are.

    ``shown`` gives the address for links where others reach it by another one.
    """

    def __init__(
        self,
        resolve: Callable[[], str],
        token: str,
        patience_s: float = PATIENCE_S,
        shown: Optional[Callable[[], str]] = None,
    ) -> None:
        self._resolve = resolve
        self._shown = shown or resolve
        self._token = token
        self._patience_s = patience_s
        self._local = threading.local()
        self._opened: List[http.client.HTTPConnection] = []

    def call(
        self,
        request: str,
        body: Any = None,
        query: Optional[Dict[str, Any]] = None,
        timeout_s: float = TIMEOUT_S,
        **path: Any,
    ) -> Any:
        """Make the request of that name; returns its decoded reply, or the bytes of a raw one.

        Raises what the server raised, or ServerUnreachableError after some seconds of trying.
        """
        return self.call_with_head(request, body, query, timeout_s, **path)[0]

    def call_with_head(
        self,
        request: str,
        body: Any = None,
        query: Optional[Dict[str, Any]] = None,
        timeout_s: float = TIMEOUT_S,
        **path: Any,
    ) -> Tuple[Any, Any]:
        """As ``call``, and the reply's headers."""
        route = routes.BY_NAME[request]
        data, kind = _encode(route, body)
        reply, content = self._request(route, data, kind, query, timeout_s, path)
        if route.response is None:
            return content, reply.headers
        found = json.loads(content.decode("utf-8"))
        if route.many:
            return [from_wire(route.response, one) for one in found], reply.headers
        return from_wire(route.response, found), reply.headers

    def stream(self, request: str, query: Optional[Dict[str, Any]] = None, **path: Any) -> Iterator[bytes]:
        """The bytes of a raw reply, in pieces; ServiceException if it ends early."""
        reply, _ = self._request(routes.BY_NAME[request], None, "", query, TIMEOUT_S, path, is_streamed=True)
        # Nobody else may use the connection until the reply is read to its end, which it may never be.
        kept, self._local.kept = self._local.kept, None
        expected, seen, is_whole = reply.headers.get("Content-Length"), 0, False
        try:
            for piece in iter(lambda: reply.read(READ_BYTES), b""):
                seen += len(piece)
                yield piece
            is_whole = expected is None or int(expected) == seen
        except _BROKEN as error:
            raise ServiceException(f"The transfer broke off after {seen} bytes: {error}.") from None
        finally:
            if is_whole and getattr(self._local, "kept", None) is None:
                self._local.kept = kept
            else:
                self._close(kept[0])
        if not is_whole:
            raise ServiceException(f"The transfer ended after {seen} of {expected} bytes; try again.")

    def url(self, request: str, **path: Any) -> str:
        """The absolute address of a request, for a link."""
        return self._shown() + _path(routes.BY_NAME[request], path)

    def address(self) -> str:
        """The server's present address, for links."""
        return self._shown()

    def close(self) -> None:
        """Close the connections of every thread; a later call opens another."""
        while self._opened:
            self._opened.pop().close()

    def _request(
        self,
        route: routes.Route,
        data: Any,
        kind: str,
        query: Any,
        timeout_s: float,
        path: Dict[str, Any],
        is_streamed: bool = False,
    ) -> Tuple[http.client.HTTPResponse, bytes]:
        """The reply and its body, which a streamed one still has to be asked for."""
        target = _path(route, path)
        pairs = {key: value for key, value in (query or {}).items() if value is not None}
        if pairs:
            target += "?" + urlencode(pairs, doseq=True)
        headers = {"Authorization": "Bearer " + self._token}
        if kind:
            headers["Content-Type"] = kind
        ends_at = time.monotonic() + self._patience_s
        pause_s = 0.02
        while True:
            connection, is_fresh = self._connection(timeout_s)
            sent = False
            try:
                connection.request(route.method, target, data, headers)
                sent = True
                reply = connection.getresponse()
                # Read here: a server may as well go away in the middle of its reply.
                content = b"" if is_streamed and reply.status < 400 else reply.read()
                break
            except _BROKEN as error:
                self._forget()
                if sent and not _may_repeat(route, error, is_fresh):
                    raise ServerUnreachableError(f"The server broke off at {route.name}: {error}.") from None
                if time.monotonic() > ends_at:
                    raise _unreachable(self._resolve, error) from None
                if is_fresh:
                    time.sleep(pause_s)
                    pause_s = min(0.5, pause_s * 2)
        if reply.status >= 400:
            raise _error(reply.status, content)
        return reply, content

    def _connection(self, timeout_s: float) -> Tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it is new; one of a forked parent is never shared."""
        kept = getattr(self._local, "kept", None)
        if kept is not None and kept[1] == os.getpid() and kept[0].sock is not None:
            kept[0].sock.settimeout(timeout_s)
            return kept[0], False
        try:
            parts = urlsplit(self._resolve())
        except OSError:
            parts = urlsplit("http://127.0.0.1:9")
        maker = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = maker(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
        self._local.kept = (connection, os.getpid())
        self._opened.append(connection)
        return connection, True

    def _forget(self) -> None:
        kept = getattr(self._local, "kept", None)
        if kept is not None:
            self._close(kept[0])
        self._local.kept = None

    def _close(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        if connection in self._opened:
            self._opened.remove(connection)


def file_resolver(path: Path, fallback: str = "", name: str = "url") -> Callable[[], str]:
    """Finds a local server's address in the file that it keeps; the last known one while there is none.

    ``name`` is ``public_url`` for the address that links show.
    """
    known = [fallback]

    def resolve() -> str:
        found = read_server_file(path)
        if found is not None:
            known[0] = str(found.get(name) or found["url"])
        return known[0] or "http://127.0.0.1:9"

    return resolve


def _may_repeat(route: routes.Route, error: BaseException, is_fresh: bool) -> bool:
    """May a request that was sent be sent again? Yes if it changes nothing twice, or never reached a handler."""
    if route.method in _IDEMPOTENT or route.name in routes.REPEATABLE:
        return True
    return isinstance(error, http.client.RemoteDisconnected) and not is_fresh


def _encode(route: routes.Route, body: Any) -> Tuple[Any, str]:
    if body is None:
        return None, ""
    if route.raw and route.request is None:
        return body, "application/octet-stream"
    return json.dumps(to_wire(body), separators=(",", ":")).encode("utf-8"), "application/json"


def _path(route: routes.Route, values: Dict[str, Any]) -> str:
    filled = route.path
    for key, value in values.items():
        if "{" + key + "}" in filled and (value in ("", None) or "/" in str(value)):
            raise UserErrorException(f"{value!r} cannot be a name here: a name is a text without '/', and not empty.")
        filled = filled.replace("{" + key + ":path}", quote(str(value), safe="/"))
        filled = filled.replace("{" + key + "}", quote(str(value), safe=""))
    return filled


def _error(status: int, content: bytes) -> Exception:
    try:
        found = json.loads(content.decode("utf-8"))["error"]
        kind = getattr(errors, str(found["type"]), None)
        message, hint = str(found["message"]), found.get("hint")
    except (ValueError, KeyError, TypeError):
        return ServiceException("The server answered {}: {}".format(status, content[:200].decode("utf-8", "replace")))
    if not (isinstance(kind, type) and issubclass(kind, RunyardError)):
        kind = ServiceException
    return kind(message, hint=hint)


def _unreachable(resolve: Callable[[], str], error: BaseException) -> Exception:
    return ServerUnreachableError(
        f"The server at {resolve()} does not answer ({error}).", hint="Look at: runyard status"
    )
