"""Ports of this host that a run's processes will listen on: each given to one run at a time, whoever asks.

A port is a lock on a file that all runners of the user on this host share, so that two nodes on one host take
different ones; and nothing listens on it. Nodes with networks of their own have ports of their own.
"""

import errno
import fcntl
import os
import socket
from typing import List, Sequence

from runyard.errors import ServiceException

#: How many ports after the one that is wanted are looked at.
SPAN = 2_000


class Ports:
    """The ports of one attempt, until they are closed."""

    def __init__(self) -> None:
        self._locks: List[int] = []
        #: In the order in which they were asked for.
        self.numbers: List[int] = []

    def reserve(self, wanted: Sequence[int]) -> None:
        """Reserve each of these ports, or the next free one after it; ServiceException where there is none."""
        # The same whatever TMPDIR says.
        folder = f"/tmp/runyard-ports-{os.getuid()}"
        os.makedirs(folder, 0o700, exist_ok=True)
        if os.lstat(folder).st_uid != os.getuid() or os.path.islink(folder):
            raise ServiceException(f"{folder} is somebody else's, so no port can be reserved; remove it.")
        for first in wanted:
            self.numbers.append(self._reserve(folder, first))

    def close(self) -> None:
        """Let others have them."""
        for lock in self._locks:
            os.close(lock)
        self._locks, self.numbers = [], []

    def _reserve(self, folder: str, first: int) -> int:
        for port in range(first, min(first + SPAN, 65_536)):
            lock = os.open(os.path.join(folder, f"{_network()}-{port}"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            if _is_free(port):
                self._locks.append(lock)
                return port
            os.close(lock)
        raise ServiceException(f"None of the ports {first} to {first + SPAN - 1} is free on this host.")


def _network() -> int:
    """The number of this process's network namespace; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return 0


def _is_free(port: int) -> bool:
    """Does nobody listen there? A port whose last connections are still being forgotten is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
