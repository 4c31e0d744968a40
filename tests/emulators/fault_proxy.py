"""A TCP proxy that passes bytes on until it is told to misbehave; what it passes on it never changes.

    with start_fault_proxy(server.endpoint) as proxy:
        proxy.cut_after(3_000_000, UP, times=1)     # the next connection that carries 3 MB upwards is reset there
        client_of(proxy.url) ...

Each switch acts on connections that live and on those to come, until ``heal``. Threads only: it needs no event loop.
"""

import array
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

#: The two directions: from the client to the target, and back.
UP, DOWN = "up", "down"
#: Most bytes that are passed on at once, and, where they are slowed, how often a second.
PIECE_BYTES, PIECES_PER_S = 64 << 10, 20
#: Longest wait for the target to take a connection, and for a cut connection's last bytes to leave, seconds.
CONNECT_S, DRAIN_S = 10.0, 2.0
#: Longest wait of a test for what it expects of the proxy, seconds.
WAIT_S = 30.0

#: setsockopt(2) SO_LINGER on, 0 s: close() resets the connection.
_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forwards connections to one target; its attributes count what was forwarded since it was made."""

    def __init__(self, target: str) -> None:
        """``target``: ``host:port`` or an http(s) address, whose path is kept in ``url``."""
        parts = urlsplit(target if "//" in target else "//" + target)
        self._target = (parts.hostname or "", parts.port or 80)
        #: Holds the port while nothing listens, so that nobody else gets it.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"{parts.scheme or 'http'}://{self.address}{parts.path}"
        self.changed = threading.Condition()
        #: Connections passed on in all, and those of them that we ended.
        self.connections = self.cuts = 0
        self.bytes_passed = {UP: 0, DOWN: 0}
        self._live: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._stalled: frozenset[str] = frozenset()
        self._bytes_per_s = 0
        self._cut: _Cut | None = None
        self._listen()

    def cut_after(
        self, size_bytes: int, direction: str = DOWN, times: int | None = None, politely: bool = False
    ) -> None:
        """End each connection once it has carried ``size_bytes`` more: exactly those reach the other side.

        ``times``: so many connections, then none. ``politely``: by an end of stream, as a server that gives up would
        send it; else by a reset.
        """
        with self.changed:
            self._cut = _Cut(size_bytes, direction, times, politely)
            self.changed.notify_all()

    def cut_now(self, politely: bool = False) -> None:
        """End all connections that live; further ones are taken."""
        for one in self._living():
            self._end(one, politely)

    def stall(self, *directions: str) -> None:
        """Pass nothing on, in both directions if none is named; connections are taken, and stay."""
        with self.changed:
            self._stalled = frozenset(directions or (UP, DOWN))

    def slow_to(self, bytes_per_s: int) -> None:
        """Pass on at most so many bytes a second, per connection and direction."""
        with self.changed:
            self._bytes_per_s = bytes_per_s

    def refuse(self) -> None:
        """Refuse new connections, and reset those that live."""
        self._close_listener()
        self.cut_now()

    def heal(self) -> None:
        """Behave again: take connections, pass everything on."""
        with self.changed:
            self._stalled, self._bytes_per_s, self._cut = frozenset(), 0, None
            self.changed.notify_all()
        if self._listener is None:
            self._listen()

    def wait_until(self, is_so: Callable[["FaultProxy"], bool]) -> None:
        """Return once ``is_so``, which is asked whenever bytes were passed on or a connection came or went."""
        with self.changed:
            assert self.changed.wait_for(lambda: is_so(self), WAIT_S), "the proxy never saw what the test waits for"

    @property
    def live(self) -> int:
        """Connections that are open now."""
        return len(self._living())

    def close(self) -> None:
        """End everything; the port is free."""
        self._close_listener()
        self.cut_now()
        self._holder.close()

    def _listen(self) -> None:
        self._listener = _bound(self.port)
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # Wakes the thread that waits for a connection, which close() alone would not.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, CONNECT_S)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        one = _Connection(client, server)
        with self.changed:
            self.connections += 1
            self._live.add(one)
            self.changed.notify_all()
        if self._listener is None:
            # refuse() was called meanwhile, and did not see this one.
            self._end(one, politely=False)
        for direction in (UP, DOWN):
            threading.Thread(target=self._pump, args=(one, direction), daemon=True).start()

    def _pump(self, one: "_Connection", direction: str) -> None:
        source, target = (one.client, one.server) if direction == UP else (one.server, one.client)
        try:
            while True:
                data = source.recv(self._piece_bytes())
                if not data:
                    break
                self._forward(one, direction, target, data)
            # Half of a connection may end before the other: what was asked is answered after the asker has ended.
            with self.changed:
                self.changed.wait_for(lambda: one.is_over or direction not in self._stalled)
                if one.is_over:
                    return
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(one, politely=False, counts=False)
        one.ended.add(direction)
        if len(one.ended) == 2:
            self._end(one, politely=True, counts=False)

    def _piece_bytes(self) -> int:
        return max(1, min(PIECE_BYTES, self._bytes_per_s // PIECES_PER_S or PIECE_BYTES))

    def _forward(self, one: "_Connection", direction: str, target: socket.socket, data: bytes) -> None:
        rate = self._bytes_per_s
        if rate:
            time.sleep(len(data) / rate)
        while data:
            with self.changed:
                self.changed.wait_for(lambda: one.is_over or direction not in self._stalled)
                if one.is_over:
                    return
                allowed = self._allowed(one, direction, len(data))
                # Before it is sent: whoever has received it may look, or switch a fault on that counts from there.
                one.count(self._cut, direction, allowed)
                self.bytes_passed[direction] += allowed
            target.sendall(data[:allowed])
            with self.changed:
                cut = self._take_cut(one)
                self.changed.notify_all()
            if cut is not None:
                self._end(one, cut.politely)
                return
            data = data[allowed:]

    def _allowed(self, one: "_Connection", direction: str, size: int) -> int:
        cut = self._cut
        if cut is None or cut.direction != direction or cut.times == 0:
            return size
        return min(size, max(0, cut.size_bytes - one.carried(cut)))

    def _take_cut(self, one: "_Connection") -> "_Cut | None":
        """The fault that ends this connection now; taken, since another connection may wait for the last of them."""
        cut = self._cut
        if cut is None or cut.times == 0 or one.is_over or not one.knows(cut) or one.carried(cut) < cut.size_bytes:
            return None
        if cut.times is not None:
            cut.times -= 1
        return cut

    def _living(self) -> "list[_Connection]":
        with self.changed:
            return list(self._live)

    def _end(self, one: "_Connection", politely: bool, counts: bool = True) -> None:
        with self.changed:
            if one not in self._live:
                return
            self._live.discard(one)
            one.is_over = True
            self.cuts += counts
            self.changed.notify_all()
        for each in (one.client, one.server):
            is_drained = _drain(each)
            if not politely:
                _reset(each, is_drained)
                continue
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class _Cut:
    """One call of ``cut_after``: what a connection carried counts from there."""

    def __init__(self, size_bytes: int, direction: str, times: int | None, politely: bool) -> None:
        self.size_bytes = size_bytes
        self.direction = direction
        self.times = times
        self.politely = politely


class _Connection:
    """A client and its connection to the target."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.ended: set[str] = set()
        self.is_over = False
        self._cut: _Cut | None = None
        self._carried = 0

    def count(self, cut: _Cut | None, direction: str, size: int) -> None:
        """Add to what was carried since that fault was switched on."""
        if cut is None or cut.direction != direction:
            return
        if self._cut is not cut:
            self._cut, self._carried = cut, 0
        self._carried += size

    def knows(self, cut: _Cut) -> bool:
        """Has anything come in the fault's direction since it was switched on?"""
        return self._cut is cut

    def carried(self, cut: _Cut) -> int:
        """Bytes carried in the fault's direction since it was switched on."""
        return self._carried if self._cut is cut else 0


@contextmanager
def start_fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A proxy before ``target`` (``host:port`` or an address), ended afterwards."""
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _bound(port: int) -> socket.socket:
    """A socket of 127.0.0.1 that shares its port with others of ours."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def _drain(one: socket.socket) -> bool:
    """Wait until the other side has what was sent: a reset throws away what is still under way. True if it has."""
    ends_at = time.monotonic() + DRAIN_S
    waiting = array.array("i", [1])
    with suppress(OSError, ValueError):
        while time.monotonic() < ends_at:
            fcntl.ioctl(one.fileno(), termios.TIOCOUTQ, waiting)
            if not waiting[0]:
                return True
            time.sleep(0.001)
    return False


def _reset(one: socket.socket, is_drained: bool = True) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # Wakes the thread that reads from it, or that writes to one who does not read; the last close resets.
        one.shutdown(socket.SHUT_RD if is_drained else socket.SHUT_RDWR)
    one.close()
