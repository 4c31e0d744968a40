"""What answers for a service that has failed: its callers hear so at once, and wait for nothing."""

import json
import socket
import time
from contextlib import suppress
from typing import Dict, List

from runyard.serving.heads import head_of

#: So many are heard out at once, for so long: with bytes unread, the system would take the answer back, seconds.
_MOST, _STAY_S = 64, 2.0
_BODY = json.dumps({"error": "This service has failed; 'runyard service show NAME' tells its owner why."}).encode()
_ANSWER = head_of(503, len(_BODY), "application/json", {"Connection": "close"}) + b"\r\n" + _BODY


class Refusals:
    """At a service's own socket, while none of its revisions listens there."""

    def __init__(self, listener: socket.socket, has_tls: bool) -> None:
        """Where callers expect TLS they are let go without a word: a front's business, and there is none."""
        self._listener, self._answer = listener, b"" if has_tls else _ANSWER
        #: Until when each is heard out.
        self._open: Dict[socket.socket, float] = {}
        listener.setblocking(False)

    def sockets(self) -> List[socket.socket]:
        """What to wait on."""
        return [*self._open, *([self._listener] if len(self._open) < _MOST else [])]

    def read(self) -> None:
        """Answer who has come, and let go of who has heard it, or has been here for long; from time to time too."""
        now = time.monotonic()
        while len(self._open) < _MOST:
            try:
                line, _ = self._listener.accept()
            except OSError:
                break
            line.setblocking(False)
            self._open[line] = now + _STAY_S
            with suppress(OSError):
                line.send(self._answer)
                line.shutdown(socket.SHUT_WR)
        for line, until in list(self._open.items()):
            if now > until or _has_ended(line):
                del self._open[line]
                line.close()

    def close(self) -> None:
        """Let go of everyone."""
        for line in self._open:
            line.close()
        self._open.clear()


def _has_ended(line: socket.socket) -> bool:
    try:
        while line.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
