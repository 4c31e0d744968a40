"""HTTP/1.1 on one connection: requests in the order in which they come, each answered before the next one is begun.

httptools parses. A framework's request and response objects would cost several times what a compiled model takes.
"""

import asyncio
import time
import zlib
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple
from urllib.parse import unquote

import httptools

from runyard.serving.packed import ENCODINGS, Unpacking

#: Most bytes of a request's line and headers.
HEAD_MAX = 64 << 10
#: Requests of one connection that may wait for its first one; then nothing more is read.
PIPELINED_MAX = 64
#: How long a caller that is refused may go on sending what nobody reads, seconds.
LINGER_S = 2.0
#: A connection that says nothing is closed after this, seconds; and after this where the front leaves: one whose next
#: request may be on its way is not.
IDLE_S, LEAVING_IDLE_S = 75.0, 2.0
#: A request must come within this, and each so many bytes give it a second more.
ARRIVAL_S, ARRIVAL_BYTES_A_SECOND = 20.0, 32 << 10

REASONS = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
    507: "Insufficient Storage",
}  # fmt: skip
JSON = "application/json"


class Request:
    """One request, whole."""

    __slots__ = ("_headers", "began", "body", "method", "path", "query")

    def __init__(self, method: str, path: str, query: str, headers: List[Any], body: bytes, began: float) -> None:
        self.method, self.path, self.query, self.body, self.began = method, path, query, body, began
        self._headers = headers

    def header(self, name: bytes) -> str:
        """A header by its name in lower case; '' where there is none."""
        for one, value in self._headers:
            if one == name:
                return str(value, "latin-1")
        return ""

    def headers(self) -> Dict[str, str]:
        """All of them, by names in lower case."""
        return {str(name, "latin-1"): str(value, "latin-1") for name, value in self._headers}


#: Answers a request by its respond(status, body, content type, further headers), now or later, once.
Responder = Callable[[int, bytes, str, Optional[Dict[str, str]]], None]
Handler = Callable[[Request, Responder], None]
#: Told of each answer on its way out: the request and the status.
Counter = Callable[[Request, int], None]


class Connections:
    """All open connections of a front, and what is the same for each."""

    def __init__(self, handler: Handler, counter: Counter, body_max: int, memory_max: int) -> None:
        self.handler, self.counter = handler, counter
        self.body_max = body_max
        #: Bytes of bodies that may be in memory at once; and those that are.
        self.memory_max, self.memory = memory_max, 0
        self.open: Set[Connection] = set()
        self.is_leaving = False

    def make(self) -> "Connection":
        """For asyncio's server."""
        return Connection(self)

    def sweep(self, now: float) -> None:
        """Close what is idle or slow; called each second."""
        for one in list(self.open):
            one.check(now)

    def leave(self, now: float) -> None:
        """Answer what comes with "Connection: close", and close what is idle; called until none is open."""
        self.is_leaving = True
        for one in list(self.open):
            one.check(now)


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._pending: Deque[Any] = deque()
        self._is_answering = False
        self._is_broken = False
        self._is_looping = False
        #: Are answers waiting for a caller that does not read? Then no more are made.
        self._is_stuffed = False
        #: When the request that is coming in began, 0: none is; and when the connection was last used.
        self._began, self._used = 0.0, time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: List[Any] = []
        self._head_size = 0
        self._body: List[bytes] = []
        #: Bytes of the body that are held, and those that came: fewer where it is packed.
        self._size = self._came = 0
        self._unpacking: Optional[Unpacking] = None
        self._is_asking = False

    # asyncio

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._all.open.add(self)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._all.open.discard(self)
        self._all.memory -= self._size + sum(len(one[0].body) for one in self._pending)
        self._pending.clear()
        self._size = 0

    def data_received(self, data: bytes) -> None:
        try:
            while data and not self._is_broken:
                data = self._fed(data)
        except httptools.HttpParserCallbackError as error:
            if not self._is_broken:
                raise error.__context__ or error from None
        except httptools.HttpParserError:
            self._refuse(400, "This is no HTTP/1.1 request.")

    def _fed(self, data: bytes) -> bytes:
        """Take what has come; returns what is to be taken next."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            return self._declined() + data[wish.args[0] :]
        return b""

    def _declined(self) -> bytes:
        """A caller would rather speak HTTP/2 or a websocket: the head of its request once more, without that wish."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "This is no proxy.")
        head = [b"%b %b HTTP/%b\r\n" % (method, self._url, self._parser.get_http_version().encode())]
        head += [b"%b: %b\r\n" % one for one in self._headers if one[0] != b"upgrade"]
        self._reset()
        self._parser = httptools.HttpRequestParser(self)
        return b"".join([*head, b"\r\n"])

    def pause_writing(self) -> None:
        self._is_stuffed = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_stuffed = False
        self._used = time.monotonic()
        if not self._is_broken:
            if len(self._pending) < PIPELINED_MAX:
                self._transport.resume_reading()
            self._next()

    # httptools

    def on_message_begin(self) -> None:
        self._began = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_size += len(url)
        if self._head_size > HEAD_MAX:
            self._refuse(431, f"The headers are larger than {HEAD_MAX} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._head_size += len(name) + len(value) + 4
        if name == b"content-encoding" and self._unpacking is None:
            encoding = value.decode("latin-1").strip().lower()
            if encoding in ENCODINGS:
                self._unpacking = Unpacking(encoding)
        self._headers.append((name, value))
        if self._head_size > HEAD_MAX:
            self._refuse(431, f"The headers are larger than {HEAD_MAX} bytes.")
        elif name == b"content-length":
            if value.isdigit() and int(value) > self._all.body_max:
                self._refuse(413, f"The body is larger than {self._all.body_max} bytes.")
        elif name == b"expect":
            self._is_asking = True

    def on_headers_complete(self) -> None:
        if self._is_asking and not self._is_broken and not self._parser.should_upgrade():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, piece: bytes) -> None:
        self._came += len(piece)
        if self._came > self._all.body_max:
            self._refuse(413, f"The body is larger than {self._all.body_max} bytes.")
        if self._unpacking is None:
            self._hold(piece)
            return
        try:
            for part in self._unpacking.feed(piece):
                if self._is_broken:
                    return
                self._hold(part)
        except zlib.error as error:
            self._refuse(400, f"The packed body is damaged: {error}.")

    def _hold(self, piece: bytes) -> None:
        if self._is_broken:
            return
        self._size += len(piece)
        self._all.memory += len(piece)
        if self._size > self._all.body_max:
            self._refuse(413, f"The body is larger than {self._all.body_max} bytes.")
        elif self._all.memory > self._all.memory_max:
            self._refuse(503, "Too many large requests at once; try again.")
        else:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        if not self._is_broken and self._unpacking is not None and not self._unpacking.is_whole:
            self._refuse(400, "The packed body ends before its end.")
        if self._is_broken or self._parser.should_upgrade():
            return
        if self._unpacking is not None:
            # Whoever reads the body finds it as if it had come so.
            self._headers = [one for one in self._headers if one[0] != b"content-encoding"]
        path, query = _address(self._url)
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self._parser.get_method().decode(), path, query, self._headers, body, self._began)
        is_kept = self._parser.should_keep_alive()
        self._reset()
        self._began = 0.0
        self._pending.append((request, is_kept))
        if not self._is_answering:
            self._next()
        elif len(self._pending) >= PIPELINED_MAX:
            self._transport.pause_reading()

    # answers

    def _next(self) -> None:
        if self._is_looping:
            return  # Answered at once, in the loop below: no recursion, however many are pipelined.
        self._is_looping = True
        while self._pending and not self._is_answering and not self._is_stuffed:
            self._is_answering = True
            request, is_kept = self._pending.popleft()
            if len(self._pending) == PIPELINED_MAX - 1:
                self._transport.resume_reading()
            self._all.handler(request, _Answer(self, request, is_kept))
        self._is_looping = False

    def answered(self, request: Request, is_kept: bool, status: int, head: bytes, body: bytes) -> None:
        """Send an answer, and go on with the next request."""
        self._all.counter(request, status)
        self._all.memory -= len(request.body)
        self._used = time.monotonic()
        if self._transport is None or self._transport.is_closing():
            self._is_answering = False
            return
        is_last = not is_kept or self._all.is_leaving
        end = b"Connection: close\r\n\r\n" if is_last else b"\r\n"
        self._is_answering = False
        self._transport.write(b"".join((head, end, b"" if request.method == "HEAD" else body)))
        if is_last:
            self._is_broken = True
            self._transport.close()
        else:
            self._next()

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what cannot be read, and close."""
        if self._is_broken:
            return
        self._is_broken = True
        self._all.memory -= self._size
        self._size, self._body = 0, []
        body = b'{"error": "%s"}' % sentence.encode()
        head = head_of(status, len(body), JSON, None)
        if not self._is_answering:
            self._transport.write(head + b"Connection: close\r\n\r\n" + body)
        self._linger()

    def _linger(self) -> None:
        """Close once the caller has read: with bytes unread, the system would take the answer back."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def check(self, now: float) -> None:
        """Is the request too slow, or the connection idle for too long?"""
        if self._began and now - self._began > ARRIVAL_S + self._came / ARRIVAL_BYTES_A_SECOND:
            self._refuse(408, "The request did not come in time.")
        elif not self._began and not self._is_answering and not self._pending:
            idle_s = now - self._used
            if self._is_stuffed and idle_s > IDLE_S:
                self._transport.abort()  # It does not read what it has asked for, and would never be closed.
            elif not self._is_stuffed and idle_s > (LEAVING_IDLE_S if self._all.is_leaving else IDLE_S):
                self._transport.close()
        elif self._is_stuffed and now - self._used > IDLE_S:
            self._transport.abort()


class _Answer:
    """A Responder that takes the first answer only."""

    __slots__ = ("_connection", "_is_done", "_is_kept", "_request")

    def __init__(self, connection: Connection, request: Request, is_kept: bool) -> None:
        self._connection, self._request, self._is_kept, self._is_done = connection, request, is_kept, False

    def __call__(
        self, status: int, body: bytes, content_type: str = JSON, headers: Optional[Dict[str, str]] = None
    ) -> None:
        if not self._is_done:
            self._is_done = True
            if status in (204, 304):
                body = b""  # By HTTP's rule: its bytes would be taken for the next answer.
            head = head_of(status, len(body), content_type, headers)
            self._connection.answered(self._request, self._is_kept, status, head, body)


_addresses: Dict[bytes, Tuple[str, str]] = {}


def _address(url: bytes) -> Tuple[str, str]:
    """(path, query); nearly all requests of a service have one of a few addresses."""
    found = _addresses.get(url)
    if found is None:
        path, _, query = url.decode("latin-1").partition("?")
        found = (unquote(path) if "%" in path else path), query
        if len(_addresses) < 1_000 and len(url) < 200:
            _addresses[url] = found
    return found


_heads: Dict[Any, bytes] = {}


def head_of(status: int, size: int, content_type: str, headers: Optional[Dict[str, str]]) -> bytes:
    """The status line and headers of an answer, without the blank line."""
    key = (status, content_type)
    begin = _heads.get(key)
    if begin is None:
        if len(_heads) > 1_000:
            _heads.clear()
        lines = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\nContent-Type: {_clean(content_type)}\r\n"
        begin = _heads[key] = (lines + "Content-Length: ").encode("latin-1", "replace")
    head = b"%b%d\r\n" % (begin, size)
    if headers:
        more = "".join(f"{_clean(name)}: {_clean(value)}\r\n" for name, value in headers.items())
        head += more.encode("latin-1", "replace")
    return head


def _clean(text: str) -> str:
    """A header's name or value, of one line."""
    return text.replace("\r", " ").replace("\n", " ")
