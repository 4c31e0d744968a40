"""The nodes' way to a server as a line of the tests' own, which can be held up: for whom, and after how many bytes.

What is held up is not lost, and nobody is told: bytes wait, as packets do on a network that is cut and heals.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from runyard.client.home import read_server_file, server_file

_CALLER = re.compile(rb"^authorization: *bearer +(\S+)", re.IGNORECASE | re.MULTILINE)
_PIECE_BYTES = 1 << 16


class Line:
    """Listens at an address, and brings what comes to the server of a home, whichever that is at the time."""

    def __init__(self, home: Path, address: str) -> None:
        self._home = home
        self._listener = socket.create_server((address, 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname()[:2])
        self._changed = threading.Condition()
        self._callers: set[bytes] = set()
        #: How many bytes may pass yet, by caller.
        self._left: dict[bytes, int] = {}
        self._cut: set[bytes] = set()
        self._holds_new = False
        threading.Thread(target=self._listen, daemon=True).start()

    def callers(self) -> set[bytes]:
        """The tokens of all that have used it: each attempt has its own."""
        with self._changed:
            return set(self._callers)

    def hold(self, callers: set[bytes], after_bytes: int = 0) -> None:
        """Let nothing of theirs pass any more, in both directions, once that many bytes have."""
        with self._changed:
            self._left.update(dict.fromkeys(callers, after_bytes))

    def hold_new(self) -> None:
        """Let nothing pass of whoever has not used it yet, until all are released."""
        with self._changed:
            self._holds_new = True

    def release(self, callers: set[bytes] | None = None) -> None:
        """Let all of theirs pass, what has waited first; None: everybody's."""
        with self._changed:
            self._holds_new = self._holds_new and callers is not None
            for caller in list(self._left) if callers is None else callers:
                self._left.pop(caller, None)
            self._changed.notify_all()

    def cut(self, callers: set[bytes]) -> None:
        """Let nothing of theirs pass ever again, nor what waits: whoever was to send it is gone."""
        with self._changed:
            self._cut |= callers
            self._changed.notify_all()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self.release()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            first = client.recv(_PIECE_BYTES)
            found = _CALLER.search(first)
            caller = found.group(1) if found else b""
            with self._changed:
                if self._holds_new and caller not in self._callers:
                    self._left[caller] = 0
                self._callers.add(caller)
            self._pass(caller, first)
            there = urlsplit(str((read_server_file(server_file(self._home)) or {})["url"]))
            with socket.create_connection((there.hostname, there.port)) as server:
                server.sendall(first)
                back = threading.Thread(target=self._pump, args=(caller, server, client), daemon=True)
                back.start()
                self._pump(caller, client, server)
                back.join()

    def _pump(self, caller: bytes, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                self._pass(caller, piece)
                sink.sendall(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _pass(self, caller: bytes, piece: bytes) -> None:
        """Return once that piece may pass."""
        with self._changed:
            self._changed.wait_for(lambda: caller in self._cut or self._left.get(caller, 1) > 0)
            if caller in self._cut:
                raise ConnectionAbortedError
            if caller in self._left:
                self._left[caller] -= len(piece)


@contextmanager
def line_to(home: Path, address: str) -> Iterator[Line]:
    """A line for a block."""
    line = Line(home, address)
    try:
        yield line
    finally:
        line.close()
