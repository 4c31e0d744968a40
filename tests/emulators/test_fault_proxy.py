"""The fault proxy passes every byte on, and misbehaves exactly as it is told."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.emulators.fault_proxy import DOWN, UP, FaultProxy, start_fault_proxy

LIMIT_S = 20.0


class Echo:
    """Answers each connection with what it says; keeps what each has said."""

    def __init__(self) -> None:
        #: False: listen only, so that all that came is read before an end is noticed.
        self.answers = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.heard: list[bytearray] = []
        #: How each connection ended: "", or the name of the error.
        self.endings: list[str] = []
        self.ended = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        heard, ending = bytearray(), ""
        self.heard.append(heard)
        with client:
            try:
                while data := client.recv(1 << 16):
                    heard += data
                    if self.answers:
                        client.sendall(data)
            except OSError as error:
                ending = type(error).__name__
        self.endings.append(ending)
        self.ended.release()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with start_fault_proxy(echo.address) as made:
        yield made


def _connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), LIMIT_S)


def _read_all(client: socket.socket) -> tuple[bytes, bool]:
    """What comes until the end, and whether that was a reset."""
    found = bytearray()
    try:
        while data := client.recv(1 << 16):
            found += data
    except ConnectionResetError:
        return bytes(found), True
    return bytes(found), False


def _exchange(client: socket.socket, data: bytes) -> tuple[bytes, bool]:
    """Say all of it while listening, as a client does that neither side holds up."""

    def say() -> None:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    speaker = threading.Thread(target=say)
    speaker.start()
    found = _read_all(client)
    speaker.join(LIMIT_S)
    return found


def test_every_byte_arrives_unchanged_and_is_counted(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 20_000
    for _ in range(2):
        with _connect(proxy) as client:
            assert _exchange(client, data) == (data, False)
    proxy.wait_until(lambda p: p.live == 0)
    assert (proxy.connections, proxy.cuts) == (2, 0)
    assert proxy.bytes_passed == {UP: 2 * len(data), DOWN: 2 * len(data)}


@pytest.mark.parametrize("politely", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100_001])
def test_a_cut_downwards_leaves_exactly_so_many_bytes(proxy: FaultProxy, size: int, politely: bool) -> None:
    proxy.cut_after(size, DOWN, politely=politely)
    data = bytes(range(256)) * 500
    with _connect(proxy) as client:
        client.sendall(data)
        assert _read_all(client) == (data[:size], not politely)
    assert proxy.bytes_passed[DOWN] == size
    assert proxy.cuts == 1


def test_a_cut_upwards_leaves_exactly_so_many_bytes_at_the_target(proxy: FaultProxy, echo: Echo) -> None:
    echo.answers = False
    proxy.cut_after(70_000, UP)
    with _connect(proxy) as client:
        assert _exchange(client, b"u" * 500_000) == (b"", True)
    assert echo.ended.acquire(timeout=LIMIT_S)
    assert len(echo.heard[0]) == 70_000
    assert echo.endings == ["ConnectionResetError"]


def test_a_cut_of_one_connection_spares_the_next(proxy: FaultProxy) -> None:
    proxy.cut_after(10, times=1)
    data = b"d" * 1000
    with _connect(proxy) as client:
        client.sendall(data)
        assert _read_all(client) == (data[:10], True)
    with _connect(proxy) as client:
        assert _exchange(client, data) == (data, False)


def test_a_cut_counts_from_where_it_was_switched_on(proxy: FaultProxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"a" * 100)
        assert client.recv(100, socket.MSG_WAITALL) == b"a" * 100
        proxy.cut_after(30)
        client.sendall(b"b" * 100)
        assert _read_all(client) == (b"b" * 30, True)


def test_living_connections_are_cut_at_once(proxy: FaultProxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"here")
        assert client.recv(4, socket.MSG_WAITALL) == b"here"
        proxy.cut_now()
        assert _read_all(client) == (b"", True)
    assert proxy.cuts == 1


def test_a_stalled_connection_lives_on_and_goes_on_where_it_was(proxy: FaultProxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"before")
        assert client.recv(6, socket.MSG_WAITALL) == b"before"
        proxy.stall(DOWN)
        client.sendall(b"during")
        proxy.wait_until(lambda p: p.bytes_passed[UP] == 12)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(LIMIT_S)
        proxy.heal()
        assert client.recv(6, socket.MSG_WAITALL) == b"during"


def test_a_stalled_proxy_takes_connections_and_ends(echo: Echo) -> None:
    with start_fault_proxy(echo.address) as proxy:
        proxy.stall()
        client = _connect(proxy)
        client.sendall(b"into the void")
        proxy.wait_until(lambda p: p.live == 1)
    with client:
        assert _read_all(client) == (b"", True)
    assert echo.ended.acquire(timeout=LIMIT_S)
    assert echo.heard == [bytearray()]


def test_a_refusing_proxy_keeps_its_port_and_comes_back(proxy: FaultProxy) -> None:
    with _connect(proxy) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.refuse()
        assert _read_all(client) == (b"", True)
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)
    proxy.heal()
    with _connect(proxy) as client:
        assert _exchange(client, b"again") == (b"again", False)


def test_a_slow_connection_takes_its_time(proxy: FaultProxy) -> None:
    proxy.slow_to(200_000)
    began_at = time.monotonic()
    with _connect(proxy) as client:
        assert _exchange(client, b"s" * 100_000) == (b"s" * 100_000, False)
    assert time.monotonic() - began_at >= 0.4


def test_a_target_that_is_not_there_is_a_reset() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with start_fault_proxy(f"127.0.0.1:{bound.getsockname()[1]}") as proxy:
            # Where the reset comes at once, connect() itself tells of it.
            with pytest.raises(ConnectionResetError), _connect(proxy) as client:
                client.recv(1)
            assert proxy.connections == 0


def test_an_address_keeps_its_scheme_and_path() -> None:
    with start_fault_proxy("https://127.0.0.1:9/devstoreaccount1") as proxy:
        assert proxy.url == f"https://127.0.0.1:{proxy.port}/devstoreaccount1"


def test_nobody_gets_the_port_of_a_refusing_proxy(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", proxy.port))
