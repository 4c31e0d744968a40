"""A front's HTTP and endpoint in the tests' own process: real sockets, a compiled model, no supervisor."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from runyard.protocol.services import Access, Deployment, Revision
from runyard.scoring.compile import _sklearn
from runyard.scoring.loaded import Loaded
from runyard.scoring.program import CompiledModel
from runyard.scoring.sklearn_model import SklearnModel
from runyard.serving.endpoint import Endpoint, Keys
from runyard.serving.http import Connections
from runyard.serving.replicas import Pool

DIGITS, LABELS = load_digits(return_X_y=True)


def digits_model() -> CompiledModel:
    """Real digits, learned in a second."""
    return CompiledModel(*_sklearn(SklearnModel(LogisticRegression(max_iter=200).fit(DIGITS / 16, LABELS))))


def revision(**deployment: Any) -> Revision:
    return Revision(1, "digits", "digits", "3", {}, "", "", deployment=Deployment(**deployment))


@contextmanager
def serving(
    model: Any, body_max: int = 1 << 20, memory_max: int = 1 << 22, variables: dict[str, str] | None = None
) -> Iterator[tuple[int, Any, Any]]:
    """(port, event loop, connections) of a model that answers until the block ends."""
    made = replace(revision(), variables=variables or {})
    endpoint = Endpoint(made, Pool(made.deployment, lambda event: None), model)
    endpoint.keys = Keys(Access.OPEN, (), "")
    connections = Connections(endpoint.handle, endpoint.count, body_max, memory_max)
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = loop.run_until_complete(loop.create_server(connections.make, sock=listener))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield listener.getsockname()[1], loop, connections
    finally:
        loop.call_soon_threadsafe(server.close)
        for one in list(connections.open):
            loop.call_soon_threadsafe(one._transport.abort)
        loop.call_soon_threadsafe(loop.call_later, 0.01, loop.stop)
        thread.join()
        loop.close()


def raw(port: int, data: bytes, parts: int = 1) -> bytes:
    """What comes back until the other side closes, or has nothing more to say."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        step = -(-len(data) // parts)
        for at in range(0, len(data), step):
            line.sendall(data[at : at + step])
        line.shutdown(socket.SHUT_WR)
        pieces = []
        try:
            while piece := line.recv(65_536):
                pieces.append(piece)
        except ConnectionResetError:
            pass
        return b"".join(pieces)


def request(body: bytes, path: str = "/score", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def rows(count: int = 1) -> Any:
    return numpy.asarray(DIGITS[:count] / 16)


@contextmanager
def replicating(plan: dict[str, Any]) -> Iterator[tuple[int, Pool, Connections]]:
    """(port, pool, connections) of a front whose model is behind a socket, as in its own process, and answers later."""
    ours, theirs = socket.socketpair()
    streams = sys.stdout, sys.stderr
    model = Loaded(plan)
    # It has taken them for a process of its own.
    sys.stdout, sys.stderr = streams
    thread = threading.Thread(target=model.serve, args=(theirs,))
    thread.start()
    with serving(None) as (port, loop, connections):
        pool = connections.handler.__self__._pool
        ours.setblocking(False)
        replica = pool.add(1)
        connecting = loop.create_unix_connection(lambda: replica, sock=ours)
        asyncio.run_coroutine_threadsafe(connecting, loop).result(20)
        wait_until(lambda: pool.ready_count == 1)
        yield port, pool, connections
        loop.call_soon_threadsafe(replica.abort)
        thread.join(20)
    theirs.close()


def wait_until(is_so: Callable[[], Any]) -> None:
    """Until it is, for a while."""
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)
