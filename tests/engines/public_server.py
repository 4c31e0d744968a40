"""A server that nodes in other network namespaces reach, as the machines of a cluster would."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runyard.client.local_server import is_running


class PublicServer:
    """The server of a home, at one address and port of this host, however often it is started."""

    def __init__(self, home: Path, address: str) -> None:
        self._home, self._address = home, address
        self._port = _free_port()
        self.url = f"http://{address}:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns once it answers."""
        words = ["--home", str(self._home), "--host", "0.0.0.0", "--port", str(self._port), "--insecure"]
        self._home.mkdir(parents=True, exist_ok=True)
        with open(self._home / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard.server", *words],
                env={"RUNYARD_PUBLIC_URL": self.url, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends_at = time.monotonic() + 30
        while not is_running(self._home):
            is_late = time.monotonic() >= ends_at
            assert self._process.poll() is None, (self._home / "server.log").read_text()
            assert not is_late, "the server answers"
            time.sleep(0.05)

    def end(self) -> None:
        """End it, where nobody has."""
        if self._process is not None:
            self._process.terminate()
        self.wait()

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            self._process.wait(30)


def _free_port() -> int:
    """Free at every address, and none that the kernel gives to a connection before the server takes it."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("0.0.0.0", port))
            return port


@contextmanager
def public_server(home: Path, address: str) -> Iterator[PublicServer]:
    """Started before the block and ended after it."""
    server = PublicServer(home, address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNYARD_HOME", str(home))
        server.start()
        try:
            yield server
        finally:
            server.end()
