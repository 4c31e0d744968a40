"""What a connection refuses before any request of it is whole; over a real socket of a real server."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runyard.client.local_server import connect, ensure_running
from runyard.server.connection import HEAD_MAX

#: One read of the server takes this much at the most, so a head of twice the sum is seen as too long.
READ_MAX = 256 << 10


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    ensure_running(tmp_path)
    server = connect()
    parts = urlsplit(server.address())
    yield parts.hostname or "", parts.port or 0
    server.call("stop_server")
    server.close()


def test_a_head_without_end_is_refused_and_the_connection_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET /api/1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        connection.settimeout(0.5)
        assert _sent_until_closed(connection, 40 * (HEAD_MAX + READ_MAX)) < 20 * (HEAD_MAX + READ_MAX)


def test_a_head_in_small_pieces_is_taken(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /api/1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 200 + b"\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert _reply(connection).startswith(b"HTTP/1.1 200")


def test_many_requests_on_one_connection_are_counted_each_on_its_own(address: tuple[str, int]) -> None:
    head = b"GET /api/1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * (HEAD_MAX // 2)
    with socket.create_connection(address, timeout=20) as connection:
        for _ in range(5):
            connection.sendall(head)
            connection.sendall(b"\r\n\r\n")
            assert _reply(connection).startswith(b"HTTP/1.1 200")


def _reply(connection: socket.socket) -> bytes:
    """One whole reply to a ping."""
    found = b""
    while b"}" not in found:
        found += connection.recv(4096)
    return found


def _sent_until_closed(connection: socket.socket, limit: int) -> int:
    """How many bytes were taken before the server closed."""
    sent = 0
    while sent < limit:
        try:
            sent += connection.send(b"a" * 65_536)
        except (BrokenPipeError, ConnectionResetError):
            return sent
    return sent
