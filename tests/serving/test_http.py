"""A front's HTTP: what comes in pieces, many at once, too large, too slow, or is no HTTP at all."""

import email.message
import email.utils
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from runyard.protocol.services import ORIGINS_VARIABLE, REVISION_FILE, Access, scoring_path
from runyard.protocol.wire import dumps
from runyard.serving.endpoint import Keys
from runyard.serving.front_process import FrontProcess
from runyard.serving.sandbox import front_cell
from tests.serving.fronts import LABELS, raw, request, revision, rows, serving

BODY = json.dumps({"data": rows(2).tolist()}).encode()
POST = b"POST /score HTTP/1.1\r\nHost: here\r\n"
ANSWER = json.dumps({"predict": LABELS[:2].tolist()}, separators=(",", ":")).encode()


def test_a_front_that_cannot_do_what_it_is_told_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / REVISION_FILE).write_text(dumps(revision()))
    (tmp_path / "no.pem").write_text("no certificate")
    with socket.create_server(("127.0.0.1", 0)) as listener, open(tmp_path / "log.txt", "wb") as log:
        front = FrontProcess(front_cell("", ()), log.fileno())
        front.serve(tmp_path, log.fileno(), listener, None, None)
        certificate = str(tmp_path / "no.pem")
        front.certify(certificate, certificate)
        assert front.process.wait(30) == 1
        events = list(front.events())
    assert (events[-1]["event"], "PEM" in events[-1]["error"]) == ("front_failed", True)
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_request_is_answered_however_it_is_cut(front: Any) -> None:
    port, _, _ = front
    for parts in (1, 2, 7, 100, len(request(BODY))):
        answer = raw(port, request(BODY), parts)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), parts
        assert answer.endswith(ANSWER)


def test_pipelined_requests_are_answered_in_their_order(front: Any) -> None:
    port, _, _ = front
    wrong = request(b"{")
    answer = raw(port, (request(BODY) + wrong) * 150)
    statuses = [piece[:3] for piece in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"400"] * 150


def test_the_address_of_a_model_with_an_odd_name_is_one() -> None:
    assert scoring_path("TensorFlow", "Prüfung 1.0") == "/v1/models/Pr%C3%BCfung%201.0:predict"


def test_a_chunked_body_is_taken_and_a_head_request_has_no_body(front: Any) -> None:
    port, _, _ = front
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (BODY[:100], BODY[100:])) + b"0\r\n\r\n"
    head = b"POST /score HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(port, head + chunks).endswith(ANSWER)
    answer = raw(port, b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


def test_a_caller_that_asks_first_is_told_to_go_on(front: Any) -> None:
    port, _, _ = front
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        whole = request(BODY, Expect="100-continue")
        line.sendall(whole[: -len(BODY)])
        assert line.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        line.sendall(BODY)
        assert b"200 OK" in line.recv(1000)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", b"431"),
        (b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", b"400"),
        (
            b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"PUT /score HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}", b"405"),
    ],
    ids=["TLS", "words", "headers", "address", "huge", "negative", "two lengths", "smuggled", "method"],
)
def test_what_is_no_request_for_us_is_refused_and_harms_nobody(front: Any, data: bytes, status: bytes) -> None:
    port, _, connections = front
    answer = raw(port, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert raw(port, request(BODY)).endswith(ANSWER)
    assert connections.memory == 0


def test_bodies_in_memory_are_bounded(model: Any) -> None:
    with serving(model, body_max=1 << 16, memory_max=1 << 17) as (port, _, connections):
        lines = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(6)]
        for line in lines:
            line.sendall(b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n" + b" " * 50_000)
        refused = 0
        for line in lines:
            line.settimeout(0.5)
            try:
                refused += line.recv(100).startswith(b"HTTP/1.1 503")
            except TimeoutError:
                pass
        assert refused >= 3
        for line in lines:
            line.close()
        while connections.open:
            time.sleep(0.01)
        assert connections.memory == 0
        assert raw(port, request(BODY)).endswith(ANSWER)


def test_an_address_takes_its_methods_and_names_them(front: Any) -> None:
    port, _, _ = front
    read, asked = "GET, HEAD, OPTIONS", "POST, OPTIONS"
    for path, allow in {
        "/": read, "/health": read, "/metrics": read, "/swagger.json": read, "/version": read, "/v2": read,
        "/v1/models/digits": read, "/v1/models/digits/metadata": read, "/v2/models/digits/ready": read,
        "/score": asked, "/invocations": asked, "/v1/models/digits:predict": asked, "/v2/models/digits/infer": asked,
    }.items():  # fmt: skip
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
            answer = raw(port, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            if method == "OPTIONS":
                assert head.startswith(b"HTTP/1.1 204 "), (method, path)
                assert b"Content-" not in head, "an answer that has no body says nothing of one"
            elif method not in allow:
                assert head.startswith(b"HTTP/1.1 405 "), (method, path)
            if method == "OPTIONS" or method not in allow:
                assert f"\r\nAllow: {allow}\r\n".encode() in head, (method, path)
            if method == "HEAD":
                assert body == b""
            elif b" 405 " in head:
                assert json.loads(body)["error"].startswith(f"{path} takes ")
    got, headed = (raw(port, f"{one} /swagger.json HTTP/1.1\r\nHost: a\r\n\r\n".encode()) for one in ("GET", "HEAD"))
    assert got.partition(b"\r\n\r\n")[0] == headed.partition(b"\r\n\r\n")[0]
    assert raw(port, b"OPTIONS * HTTP/1.1\r\nHost: here\r\n\r\n").startswith(b"HTTP/1.1 204 ")
    assert raw(port, b"GET /nowhere HTTP/1.1\r\nHost: here\r\n\r\n").startswith(b"HTTP/1.1 404 ")


def test_an_address_may_be_written_whole(front: Any) -> None:
    port, _, _ = front
    for path in ("http://here/score", "HTTP://here:80/score?a=http://b/c", "https://[::1]:1/score"):
        assert raw(port, request(BODY, path)).endswith(ANSWER), path
    for path in ("http://here", "http://here?x=1"):
        assert raw(port, f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()).endswith(b"Healthy"), path


def test_an_older_caller_is_told_whether_the_connection_stays(front: Any) -> None:
    port, _, _ = front
    ask = b"GET / HTTP/1.0\r\n"
    answer = raw(port, (ask + b"\r\n") * 2)
    assert answer.count(b"Healthy") == 1
    assert b"\r\nConnection: close\r\n" in answer
    answer = raw(port, (ask + b"Connection: Keep-Alive\r\n\r\n") * 2 + ask + b"\r\n")
    assert answer.count(b"Healthy") == 3
    assert answer.count(b"\r\nConnection: keep-alive\r\n") == 2
    # It knows nothing of being told to go on.
    answer = raw(port, b"POST /score HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_answer_has_its_date(front: Any) -> None:
    port, loop, connections = front
    found = email.message_from_bytes(raw(port, b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n").partition(b"\r\n")[2])
    date = email.utils.parsedate_to_datetime(found["Date"])
    assert abs(date.timestamp() - time.time()) < 60
    connections.ends = {}
    loop.call_soon_threadsafe(connections.sweep, time.monotonic())
    while not connections.ends:
        time.sleep(0.01)
    assert raw(port, request(BODY)).endswith(ANSWER)


def test_pages_of_origins_that_the_service_names_may_ask_it(model: Any) -> None:
    get = "GET / HTTP/1.1\r\nHost: here\r\nOrigin: {}\r\n\r\n"
    preflight = (
        "OPTIONS /score HTTP/1.1\r\nHost: here\r\nOrigin: {}\r\nAccess-Control-Request-Method: POST\r\n"
        "Access-Control-Request-Headers: authorization, x-mine\r\n\r\n"
    )
    with serving(model, variables={ORIGINS_VARIABLE: "https://a.org, www.b.org,http://c.org:8080/"}) as (
        port,
        _,
        connections,
    ):
        connections.handler.__self__.keys = Keys(Access.KEY, (), "")
        for origin in ("https://a.org", "https://www.b.org", "http://www.b.org", "HTTP://C.org:8080"):
            for data in (get, preflight):
                answer = raw(port, data.format(origin).encode())
                assert f"\r\nAccess-Control-Allow-Origin: {origin}\r\n".encode() in answer
                assert b"\r\nVary: Origin\r\n" in answer
            assert answer.startswith(b"HTTP/1.1 204 "), "a browser asks without a key"
            assert b"\r\nAccess-Control-Allow-Headers: authorization, x-mine\r\n" in answer
        refused = raw(port, request(BODY, Origin="https://a.org"))
        assert refused.startswith(b"HTTP/1.1 401 ")
        assert b"Access-Control-Allow-Origin" in refused, "the page may read why"
        for origin in ("http://a.org", "https://b.org", "null", "https://c.org:8080"):
            for data in (get, preflight):
                assert b"Access-Control" not in raw(port, data.format(origin).encode()), origin
    with serving(model, variables={ORIGINS_VARIABLE: "*"}) as (port, _, _):
        assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in raw(port, get.format("https://x.org").encode())
    with serving(model) as (port, _, _):
        for data in (get, preflight):
            assert b"Access-Control" not in raw(port, data.format("https://a.org").encode())


@pytest.mark.parametrize("name", ["websocket", "h2c"])
def test_a_caller_that_offers_another_protocol_is_answered_in_this_one(front: Any, name: str) -> None:
    port, _, connections = front
    wish = {"Upgrade": name, "Connection": "Upgrade, HTTP2-Settings", "HTTP2_Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    answer = raw(port, f"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: {name}\r\nConnection: Upgrade\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 OK")
    # As curl --http2 and Java's own client do: a body comes with the wish, and the next request without it.
    packed = request(gzip.compress(BODY), Content_Encoding="gzip", **wish)
    several = request(BODY, **wish) + packed + request(b"{", **wish) + request(BODY)
    for parts in (1, 7, len(several)):
        statuses = [piece[:3] for piece in raw(port, several, parts).split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"200", b"400", b"200"], parts
    many = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" * 2_000
    assert raw(port, many).count(b"HTTP/1.1 200") == 2_000
    assert raw(port, b"CONNECT here:80 HTTP/1.1\r\nHost: here\r\n\r\n").startswith(b"HTTP/1.1 405")
    assert connections.memory == 0


PACKED = gzip.compress(BODY)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", PACKED),
        ("X-GZip", PACKED),
        ("deflate", zlib.compress(BODY)),
        ("Identity", BODY),
        ("identity, gzip", PACKED),
        ("gzip", gzip.compress(BODY[:100]) + gzip.compress(b"") + gzip.compress(BODY[100:])),
        ("gzip", gzip.compress(BODY + b" " * 800_000)),
    ],
    ids=["gzip", "its old name", "deflate", "not at all", "once", "three files", "much from little"],
)
def test_a_packed_body_is_unpacked_as_it_comes(front: Any, encoding: str, packed: bytes) -> None:
    port, _, connections = front
    for parts in (1, 7, len(packed)):
        assert raw(port, request(packed, Content_Encoding=encoding), parts).endswith(ANSWER), parts
    answers = raw(port, request(packed, Content_Encoding=encoding) + request(BODY))
    assert answers.count(ANSWER) == 2, "what is unpacked is one body's own"
    assert connections.memory == 0


@pytest.mark.parametrize(
    ("encoding", "packed", "status", "said"),
    [
        ("gzip", PACKED[:-1], b"400", b"ends before its end"),
        ("gzip", PACKED[:5], b"400", b"ends before its end"),
        ("gzip", PACKED[:-6] + b"??" + PACKED[-4:], b"400", b"is damaged"),
        ("gzip", BODY, b"400", b"is damaged"),
        ("gzip", PACKED + b"more", b"400", b"is damaged"),
        ("deflate", zlib.compress(BODY) + b"more", b"400", b"something behind its end"),
        ("gzip", gzip.compress(b"") * 1_001, b"400", b"more than 1000 files"),
        ("gzip", gzip.compress(b"{"), b"400", b"not JSON"),
        ("gzip", b"", b"400", b"not JSON"),
        ("br", PACKED, b"415", b"not by 'br'"),
        ("zstd", BODY, b"415", b"not by 'zstd'"),
        ("gzip\r\nContent-Encoding: br", PACKED, b"415", b"not by 'gzip, br'"),
        ("gzip, gzip", PACKED, b"415", b"not by 'gzip, gzip'"),
    ],
    # What is packed tells the time.
    ids=[
        "short",
        "shorter",
        "spoilt",
        "plain",
        "more",
        "deflate-more",
        "files",
        "no-json",
        "empty",
        "other",
        "no-other",
        "lines",
        "twice",
    ],
)
def test_a_packed_body_that_cannot_be_unpacked_is_refused_with_the_reason(
    front: Any, encoding: str, packed: bytes, status: bytes, said: bytes
) -> None:
    port, _, connections = front
    answer = raw(port, request(packed, Content_Encoding=encoding))
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert said in answer
    assert (b"\r\nAccept-Encoding: gzip, deflate, identity\r\n" in answer) == (status == b"415")
    assert connections.memory == 0


def test_a_small_body_that_would_become_a_huge_one_costs_no_more_than_the_limit(front: Any) -> None:
    port, _, connections = front
    packer = zlib.compressobj(9, wbits=31)
    # A block that may be repeated, since nothing in it refers to what came before: a gigabyte in all.
    first, block = (packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = first + block * 63
    assert len(bomb) < 1_100_000
    for parts in (1, 20):
        tracemalloc.start()
        try:
            answer = raw(port, request(bomb[:1_000_000], Content_Encoding="gzip"), parts)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.startswith(b"HTTP/1.1 413"), answer
        # The limit, a step beyond it, what was sent, and what sends it.
        assert peak < 6 << 20
        assert connections.memory == 0
    assert raw(port, request(BODY)).endswith(ANSWER)


def test_what_bodies_become_is_counted_with_all_that_is_in_memory(model: Any) -> None:
    packed = gzip.compress(b" " * 100_000)
    with serving(model, body_max=1 << 17, memory_max=1 << 18) as (port, _, connections):
        head = POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        lines = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(2)]
        for line in lines:
            line.sendall(head + packed[:-1])
        while connections.memory < 200_000:
            time.sleep(0.01)
        assert raw(port, head + packed).startswith(b"HTTP/1.1 503")
        for line in lines:
            line.close()
        while connections.open:
            time.sleep(0.01)
        assert connections.memory == 0


def test_slow_and_idle_connections_are_closed_by_the_sweep(front: Any) -> None:
    port, loop, connections = front
    slow, idle = (socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(2))
    with slow, idle:
        slow.sendall(b"POST /score HTTP/1.1\r\nHost: here\r\n")
        while not any(one._began for one in list(connections.open)):
            time.sleep(0.01)
        loop.call_soon_threadsafe(connections.sweep, time.monotonic() + 1)
        loop.call_soon_threadsafe(connections.sweep, time.monotonic() + 21)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert len(connections.open) == 2
        loop.call_soon_threadsafe(connections.sweep, time.monotonic() + 76)
        assert idle.recv(1000) == b""


def test_a_thousand_connections_that_say_nothing_keep_nobody_out(front: Any) -> None:
    port, _, connections = front
    idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(1_000)]
    try:
        assert raw(port, request(BODY)).endswith(ANSWER)
        assert len(connections.open) >= 1_000
    finally:
        for one in idle:
            one.close()
