"""A front's HTTP against callers that mean harm, or take each freedom of RFC 9110 and 9112: nobody else notices."""

import hashlib
import json
import re
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from sklearn.svm import SVC

from runyard.protocol.services import Access
from runyard.serving.endpoint import Keys
from runyard.serving.http import HEAD_MAX, HEADERS_MAX, IDLE_S
from tests.serving.fronts import DIGITS, LABELS, raw, replicating, request, rows, wait_until

BODY = json.dumps({"data": rows(1).tolist()}).encode()
POST = b"POST /score HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Any]:
    """A front whose model lies behind a socket, as in its own process, and answers later."""
    joblib.dump(SVC().fit(DIGITS, LABELS), tmp_path / "model.pkl")
    with replicating({"framework": "ScikitLearn", "model": str(tmp_path / "model.pkl")}) as found:
        yield found


def statuses(answer: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)


def test_garbage_behind_a_request_waits_for_its_answer_and_harms_no_replica(replicated: Any) -> None:
    port, pool, connections = replicated
    for garbage, status in ((b"garbage\r\n\r\n", b"400"), (POST + b"Content-Length: 99999999999\r\n\r\n", b"413")):
        assert statuses(raw(port, request(BODY) * 3 + garbage)) == [b"200", b"200", b"200", status]
    assert pool.ready_count == 1
    assert statuses(raw(port, request(BODY))) == [b"200"], "whoever has said all may still listen"
    assert connections.memory == 0


def test_word_to_go_on_comes_behind_the_answers_to_what_came_before(replicated: Any) -> None:
    port, _, _ = replicated
    asking = request(BODY, Expect="100-continue")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(request(BODY) + asking[: -len(BODY)])
        found = b""
        while b"100 Continue" not in found:
            found += line.recv(1000)
        assert statuses(found) == [b"200", b"100"]
        line.sendall(BODY)
        assert statuses(line.recv(1000)) == [b"200"]


@pytest.mark.parametrize("place", ["a header", "a trailer", "a chunk's extension"])
def test_what_has_no_end_is_refused_before_it_fills_the_memory(front: Any, place: str) -> None:
    port, _, connections = front
    begin = {
        "a header": POST + b"X: ",
        "a trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ",
        "a chunk's extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;",
    }[place]
    tracemalloc.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(begin)
            answer = b""
            try:
                for _ in range(400):
                    line.sendall(b"a" * HEAD_MAX)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                answer = line.recv(1000)
            except ConnectionResetError:
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 431"), answer
    assert peak < 4 << 20
    assert connections.memory == 0


def test_many_small_chunks_take_no_more_memory_than_their_bytes(front: Any) -> None:
    port, _, connections = front
    body = BODY + b" " * 400_000
    chunks = b"".join(b"2\r\n%b\r\n" % body[at : at + 2] for at in range(0, len(body) - len(body) % 2, 2))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        tracemalloc.start()
        try:
            line.sendall(chunks)
            wait_until(lambda: connections.memory > 0.99 * len(body))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        line.sendall(b"0\r\n\r\n")
        assert statuses(line.recv(1000)) == [b"200"]
    assert held < 3 * len(body)


def test_headers_are_bounded_in_number_too(front: Any) -> None:
    port, _, _ = front
    get = b"GET / HTTP/1.1\r\nHost: here\r\n"
    assert statuses(raw(port, get + b"X: y\r\n" * (HEADERS_MAX - 1) + b"\r\n")) == [b"200"]
    assert statuses(raw(port, get + b"X: y\r\n" * HEADERS_MAX + b"\r\n")) == [b"431"]


def test_what_comes_behind_a_body_changes_nothing_of_what_was_said(front: Any) -> None:
    port, _, connections = front
    late = b"Host: two\r\nContent-Encoding: gzip\r\nExpect: nothing\r\nAuthorization: Bearer key\r\n"
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, late)
    assert statuses(raw(port, chunked + request(BODY))) == [b"200", b"200"]
    known = (hashlib.sha256(b"key").hexdigest(),)
    connections.handler.__self__.keys = Keys(Access.KEY, known, "")
    with_key = request(BODY, Authorization="Bearer key")
    assert statuses(raw(port, chunked + with_key + request(BODY))) == [b"401", b"200", b"401"]


def test_a_caller_that_never_reads_is_let_go(front: Any) -> None:
    port, loop, connections = front
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.setblocking(False)
        swagger = b"GET /swagger.json HTTP/1.1\r\nHost: here\r\n\r\n" * 100
        try:
            while True:
                line.send(swagger)
        except BlockingIOError:
            pass
        wait_until(lambda: [one for one in list(connections.open) if one._is_stuffed])
        for seconds in (1.0, IDLE_S, 2 * IDLE_S + 1):
            loop.call_soon_threadsafe(connections.sweep, time.monotonic() + seconds)
        wait_until(lambda: not connections.open)


def test_a_caller_that_reads_slowly_gets_all_of_its_answer(front: Any) -> None:
    port, loop, connections = front
    # More than the system holds for a connection, several times over.
    answer = bytes(32 << 20)
    connections.handler = lambda request, respond: respond(200, answer, "text/plain", None)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        wait_until(lambda: [one for one in list(connections.open) if one._is_stuffed])
        (served,) = connections.open
        total = seen = 0
        left, at = len(answer), time.monotonic()
        while total < len(answer):
            piece = line.recv(1 << 18)
            assert piece, "it was cut off"
            total, seen = total + len(piece), seen + len(piece)
            if seen > 8 << 20:
                # The system may hold more than that: what counts is what has left the front.
                wait_until(lambda least=left: served._transport.get_write_buffer_size() < least)
                left = served._transport.get_write_buffer_size()
                seen, at = 0, at + 0.9 * IDLE_S
                loop.call_soon_threadsafe(connections.sweep, at)


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501", b"not 'gzip, chunked'"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", b"501", b"not 'gzip'"),
        (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", b"400", b"Transfer-Encoding"),
        (b"POST /score HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400", b"HTTP/1.0 knows no"),
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", b"400", b"Duplicate Content-Length"),
        (POST + b"Content-Length: +2\r\n\r\n{}", b"400", b"Content-Length"),
        (POST + b"Content-Length: 2, 2\r\n\r\n{}", b"400", b"Content-Length"),
        (POST + b"Content-Length : 2\r\n\r\n{}", b"400", b"header field"),
        (POST + b"X: a\r\n b\r\n\r\n", b"400", b"whitespace"),
        (POST + b"X: a\nY: b\r\n\r\n", b"400", b"expected CR"),
        (POST + b"X: a\rY: b\r\n\r\n", b"400", b"expected LF"),
        (POST + b"X: a\0b\r\n\r\n", b"400", b"header value"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", b"400", b"Chunk size overflow"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", b"400", b"chunk size"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400", b"The header Host is missing."),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"400", b"more than one header Host"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", b"400", b"more than one header Host"),
        (b"GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n", b"400", b"'a/../b'"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"505", b"HTTP/1.1"),
        (b"GET /\r\n\r\n", b"505", b"HTTP/1.1"),
        (POST + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\n{}", b"417", b"a-miracle"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_the_reason(
    front: Any, data: bytes, status: bytes, said: bytes
) -> None:
    port, _, connections = front
    answer = raw(port, data + request(BODY))
    assert statuses(answer)[0] == status, answer
    assert len(statuses(answer)) <= 2, "what stands behind it is not read"
    assert answer.count(b"Content-Length: ") == 1
    assert said in json.dumps(json.loads(answer.partition(b"\r\n\r\n")[2])).encode(), answer
    assert b"\r\nConnection: close\r\n" in answer
    assert connections.memory == 0


def test_a_script_takes_what_it_likes_and_says_what_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def run(data):\n    return len(data)\n")
    with replicating({"entry_script": str(tmp_path / "score.py")}) as (port, _, _):
        for method, status in (("GET", b"405"), ("HEAD", b"405"), ("OPTIONS", b"204"), ("POST", b"200")):
            answer = raw(port, f"{method} /score HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n".encode())
            assert statuses(answer) == [status], method
            assert (b"\r\nAllow: POST, OPTIONS\r\n" in answer) == (status != b"200")
        # It may unpack what the front does not.
        assert raw(port, request(b"12345", Content_Encoding="zstd")).endswith(b"\r\n\r\n5")
        assert statuses(raw(port, b"PUT / HTTP/1.1\r\nHost: here\r\n\r\n")) == [b"405"]
