"""HTTP/1.1 on one connection: requests in the order in which they come, each answered before the next one is begun.

httptools parses. A framework's request and response objects would cost several times what a compiled model takes.
"""

import asyncio
import json
import time
import zlib
from collections import deque
from email.utils import formatdate
from typing import Any, Callable, Deque, Dict, List, Optional, Set

import httptools

from runyard.serving.heads import address_of, head_of, is_host
from runyard.serving.packed import ENCODINGS, Unpacking

#: Most bytes of a request's line and headers, and most headers: each takes more memory than its bytes.
HEAD_MAX, HEADERS_MAX = 64 << 10, 200
#: Requests of one connection that may wait for its first one; then nothing more is read.
PIPELINED_MAX = 64
#: How long a caller that is refused may go on sending what nobody reads, seconds.
LINGER_S = 2.0
#: A connection that says nothing is closed after this, seconds; and after this where the front leaves: one whose next
#: request may be on its way is not.
IDLE_S, LEAVING_IDLE_S = 75.0, 2.0
#: A request must come within this, and each so many bytes give it a second more.
ARRIVAL_S, ARRIVAL_BYTES_A_SECOND = 20.0, 32 << 10

JSON = "application/json"
#: Headers that bear on how a request is read; Host is one or none at all.
_MEANT = frozenset((b"connection", b"content-encoding", b"content-length", b"expect", b"host", b"transfer-encoding"))
#: How a head ends: the connection stays, or stays and that is said, or it is closed.
KEPT, KEPT_SAID, CLOSED = "kept", "kept, said", "closed"


class Request:
    """One request, whole."""

    __slots__ = ("_headers", "began", "body", "encoding", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: str, headers: List[Any], body: bytes, began: float, encoding: str = ""
    ) -> None:
        self.method, self.path, self.query, self.body, self.began = method, path, query, body, began
        self._headers = headers
        #: How the body is still packed; '' where it is not.
        self.encoding = encoding

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
        self.is_leaving, self.idle_s = False, IDLE_S
        self._date()

    def make(self) -> "Connection":
        """For asyncio's server."""
        return Connection(self)

    def sweep(self, now: float) -> None:
        """Close what is idle or slow; called each second."""
        self._date()
        for one in list(self.open):
            one.check(now)

    def _date(self) -> None:
        """What each head ends with: the time, and whether the connection stays."""
        date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        self.ends = {
            KEPT: date + b"\r\n",
            KEPT_SAID: date + b"Connection: keep-alive\r\n\r\n",
            CLOSED: date + b"Connection: close\r\n\r\n",
        }

    def leave(self, now: float) -> None:
        """Answer what comes with "Connection: close", and close what is idle; called until none is open."""
        self.is_leaving, self.idle_s = True, LEAVING_IDLE_S
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
        #: Are answers waiting for a caller that does not read? Then no more are made; and so many bytes waited.
        self._is_stuffed, self._left = False, 0
        #: Has the caller said all, and may still listen?
        self._is_heard = False
        #: What goes out behind the answers to what came before: a refusal, or word to go on.
        self._owed = b""
        #: When the request that is coming in began, 0: none is; and when the connection was last used.
        self._began, self._used = 0.0, time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: List[Any] = []
        self._head_size = 0
        self._is_headed = False
        #: Host headers so far, and what else was said of how to read the request.
        self._hosts = 0
        self._coding = self._encoding = b""
        self._is_asking = self._says_keep = False
        self._body: Any = b""
        #: Bytes of the body that are held, and those that came: fewer where it is packed.
        self._size = self._came = 0
        #: Bytes that came since without being any of the body.
        self._dry = 0
        self._unpacking: Optional[Unpacking] = None

    # asyncio

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._all.open.add(self)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._all.open.discard(self)
        self._all.memory -= self._size + sum(len(one[0].body) for one in self._pending)
        self._pending.clear()
        self._size = 0

    def eof_received(self) -> bool:
        """Whoever has said all may still listen: what is under way is answered, where the transport can."""
        self._is_heard = (self._is_answering or bool(self._pending)) and self._transport.can_write_eof()
        return self._is_heard

    def data_received(self, data: bytes) -> None:
        began, came, size = self._began, self._came, len(data)
        try:
            while data and not self._is_broken:
                data = self._fed(data)
        except httptools.HttpParserCallbackError as error:
            if not self._is_broken:
                raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            self._refuse_unread(str(error))
        if began and self._began == began and self._came == came:
            # The parser holds a header until it is whole, however long.
            self._dry += size
            if self._dry > HEAD_MAX:
                self._refuse(431, f"The headers are larger than {HEAD_MAX} bytes.")

    def _refuse_unread(self, why: str) -> None:
        codings = [value for name, value in self._headers if name == b"transfer-encoding"]
        if why.startswith("Request has invalid `Transfer-Encoding`") and codings:
            self._refuse_coding(codings[0])
        else:
            self._refuse(400, f"This is no HTTP/1.1 request: {why.replace('`', '')}.")

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
            self._refuse(405, "This is no proxy.", {"Allow": "GET, HEAD, POST, OPTIONS"})
        head = [b"%b %b HTTP/%b\r\n" % (method, self._url, self._parser.get_http_version().encode())]
        head += [b"%b: %b\r\n" % one for one in self._headers if one[0] != b"upgrade"]
        self._reset()
        self._parser = httptools.HttpRequestParser(self)
        return b"".join([*head, b"\r\n"])

    def pause_writing(self) -> None:
        self._is_stuffed, self._left = True, self._transport.get_write_buffer_size()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_stuffed = False
        self._used = time.monotonic()
        if not self._is_broken and len(self._pending) < PIPELINED_MAX:
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
        if self._head_size > HEAD_MAX:
            self._refuse(431, f"The headers are larger than {HEAD_MAX} bytes.")
        elif not self._is_headed:  # Else it comes behind the body, where none of them may change what was said.
            self._headers.append((name, value))
            if name in _MEANT:
                self._heed(name, value)

    def _heed(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            if not is_host(value):
                self._refuse(400, f"The header Host is no name of a host: {value.decode('latin-1')[:100]!r}.")
        elif name == b"content-length":
            if value.isdigit() and int(value) > self._all.body_max:
                self._refuse(413, f"The body is larger than {self._all.body_max} bytes.")
        elif name == b"content-encoding":
            self._encoding = self._encoding + b"," + value if self._encoding else value
        elif name == b"connection":
            self._says_keep = b"keep-alive" in value.lower()
        elif name == b"expect":
            self._is_asking = True
            if value.lower() != b"100-continue":
                self._refuse(417, f"Nothing is known of 'Expect: {value.decode('latin-1')[:100]}'.")
        else:
            self._coding = value
            if value.lower() != b"chunked":
                self._refuse_coding(value)

    def _refuse_coding(self, value: bytes) -> None:
        coding = value.decode("latin-1")[:100]
        self._refuse(501, f"The Transfer-Encoding is 'chunked' or none, and not {coding!r}.")

    def on_headers_complete(self) -> None:
        self._is_headed = True
        if self._hosts != 1 or self._coding or self._is_asking:
            self._check_head(self._parser.get_http_version())
        if len(self._headers) > HEADERS_MAX:
            self._refuse(431, f"There are more than {HEADERS_MAX} headers.")
        if self._encoding:
            # In one word, without those that change nothing.
            names = [one.strip().lower() for one in self._encoding.decode("latin-1").split(",")]
            encoding = ", ".join(one for one in names if one not in ("", "identity"))
            self._unpacking = Unpacking(encoding) if encoding in ENCODINGS else None
            self._encoding = b"" if self._unpacking else encoding.encode("latin-1")
        if self._is_asking and not self._is_broken and not self._parser.should_upgrade():
            self._owe(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_head(self, version: str) -> None:
        if self._hosts > 1:
            self._refuse(400, "There is more than one header Host.")
        elif not self._hosts and version == "1.1":
            self._refuse(400, "The header Host is missing.")
        elif version != "1.1":
            self._is_asking = False
            if self._coding:
                self._refuse(400, f"HTTP/{version} knows no Transfer-Encoding.")

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
            # One growing array: a list of many small pieces would take many times their bytes.
            if not self._body:
                self._body = piece
            elif isinstance(self._body, bytes):
                self._body = bytearray(self._body)
                self._body += piece
            else:
                self._body += piece

    def on_message_complete(self) -> None:
        if not self._is_broken and self._unpacking is not None and not self._unpacking.is_whole:
            self._refuse(400, "The packed body ends before its end.")
        if self._is_broken or self._parser.should_upgrade():
            return
        if self._unpacking is not None:
            # Whoever reads the body finds it as if it had come so.
            self._headers = [one for one in self._headers if one[0] != b"content-encoding"]
        is_kept = self._parser.should_keep_alive()
        if not is_kept and self._parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse(505, "This service speaks HTTP/1.1.")
            return
        path, query = address_of(self._url)
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        encoding = self._encoding.decode("latin-1") if self._encoding and body else ""
        request = Request(self._parser.get_method().decode(), path, query, self._headers, body, self._began, encoding)
        # HTTP/1.0 has to be told that the connection stays, and nobody minds to hear it.
        keeping = (KEPT_SAID if self._says_keep else KEPT) if is_kept else CLOSED
        self._reset()
        self._began = 0.0
        self._owed = b""
        self._pending.append((request, keeping))
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
            request, keeping = self._pending.popleft()
            if len(self._pending) == PIPELINED_MAX - 1 and not self._is_broken:
                self._transport.resume_reading()
            self._all.handler(request, _Answer(self, request, keeping))
        self._is_looping = False
        if self._owed:
            self._pay()

    def answered(self, request: Request, keeping: str, status: int, head: bytes, body: bytes) -> None:
        """Send an answer, and go on with the next request."""
        self._all.counter(request, status)
        self._all.memory -= len(request.body)
        self._used = time.monotonic()
        self._is_answering = False
        if self._transport is None or self._transport.is_closing():
            return
        if self._all.is_leaving or (self._is_heard and not self._pending and not self._owed):
            keeping = CLOSED
        self._transport.write(b"".join((head, self._all.ends[keeping], b"" if request.method == "HEAD" else body)))
        if keeping == CLOSED:
            self._is_broken = True
            self._transport.close()
        else:
            self._next()

    def _owe(self, data: bytes) -> None:
        """Send that behind the answers to what came before."""
        self._owed = data
        self._pay()

    def _pay(self) -> None:
        if self._is_answering or self._pending or self._transport.is_closing():
            return
        owed, self._owed = self._owed, b""
        self._transport.write(owed)
        if self._is_broken:
            self._linger()

    def _refuse(self, status: int, sentence: str, headers: Optional[Dict[str, str]] = None) -> None:
        """Answer what cannot be read, and close."""
        if self._is_broken:
            return
        self._is_broken = True
        self._used = time.monotonic()
        self._all.memory -= self._size
        self._size, self._body = 0, b""
        body = json.dumps({"error": sentence}).encode()
        self._owe(head_of(status, len(body), JSON, headers) + self._all.ends[CLOSED] + body)

    def _linger(self) -> None:
        """Close once the caller has read: with bytes unread, the system would take the answer back."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def check(self, now: float) -> None:
        """Is the request too slow, or the connection idle for too long?"""
        if self._is_stuffed or self._is_broken:
            left = self._transport.get_write_buffer_size()
            if left < self._left:
                self._used = now
            self._left = left
            if now - self._used > IDLE_S and (self._is_stuffed or not self._is_answering):
                self._transport.abort()  # It does not read what it has asked for, and would never be closed.
        elif self._began:
            if now - self._began > ARRIVAL_S + self._came / ARRIVAL_BYTES_A_SECOND:
                self._refuse(408, "The request did not come in time.")
        elif not self._is_answering and not self._pending and now - self._used > self._all.idle_s:
            self._transport.close()


class _Answer:
    """A Responder that takes the first answer only."""

    __slots__ = ("_connection", "_is_done", "_keeping", "_request")

    def __init__(self, connection: Connection, request: Request, keeping: str) -> None:
        self._connection, self._request, self._keeping, self._is_done = connection, request, keeping, False

    def __call__(
        self, status: int, body: bytes, content_type: str = JSON, headers: Optional[Dict[str, str]] = None
    ) -> None:
        if not self._is_done:
            self._is_done = True
            if status in (204, 304):
                body = b""  # By HTTP's rule: its bytes would be taken for the next answer.
            head = head_of(status, len(body), content_type, headers)
            self._connection.answered(self._request, self._keeping, status, head, body)
