"""A front as its supervisor has it: a process that sees no folder of ours, and the line to it.

It may be started before anybody knows what it is to serve, which it is given by descriptors.
"""

import json
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence

from runyard import __version__
from runyard.protocol.scoring import CONSTANTS_FILE, PROGRAM_FILE
from runyard.protocol.services import REVISION_FILE, Wanted
from runyard.serving.certificate import Certificate
from runyard.serving.children import kill
from runyard.serving.orders import ORDER_MAX, pair, send_order
from runyard.serving.sandbox import Cell, started


class FrontProcess:
    """One front."""

    def __init__(self, cell: Cell, log: int) -> None:
        """Start it; OSError where it cannot be."""
        ours, theirs = pair()
        variables = {"PATH": os.defpath, "PYTHONPATH": cell.work, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
                     "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        command = [sys.executable, "-m", "runyard.serving.front", str(theirs.fileno()), __version__]
        with theirs:
            self.process = started(cell, command, variables, log, (theirs.fileno(),))
        ours.setblocking(False)
        self._cell = cell
        self._certificate: Optional[Certificate] = None
        self.is_ready = False
        self.began = self.heard_at = time.monotonic()
        #: None once it has closed its end, or does not speak as it should.
        self.line: Optional[socket.socket] = ours

    def is_fit_for(self, cell: Cell) -> bool:
        """Is it there, and may it see what a front in that one may?"""
        return self._cell == cell and self.process.poll() is None

    def serve(
        self, folder: Path, log: int, listener: socket.socket, door: Optional[socket.socket], compiled: Optional[Path]
    ) -> None:
        """Give it its revision, by that one's folder, and the compiled model that it is to hold itself, if any.

        OSError: there is no such file, and no front any more.
        """
        self.began = self.heard_at = time.monotonic()
        given = {"log": log, "listener": listener.fileno()}
        if door is not None:
            given["door"] = door.fileno()
        paths = {"revision": folder / REVISION_FILE}
        if compiled is not None:
            paths.update(program=compiled / PROGRAM_FILE, constants=compiled / CONSTANTS_FILE)
        with ExitStack() as stack:
            try:
                for name, path in paths.items():
                    given[name] = stack.enter_context(open(path, "rb")).fileno()
            except OSError:
                self.end()
                raise
            self.order({"do": "serve", "given": list(given)}, list(given.values()))

    def certify(self, path: str, key_path: str) -> None:
        """Let it speak TLS by those files as they are now, '' for none; OSError names one that cannot be read."""
        if not path:
            return
        certificate = self._certificate
        if certificate is None or certificate.paths != (path, key_path):
            certificate = Certificate(path, key_path)
        elif not certificate.is_renewed():
            return
        with certificate.opened() as copies:
            self.order({"do": "certificate"}, copies)
        self._certificate = certificate

    @property
    def has_certificate(self) -> bool:
        """Was it given one?"""
        return self._certificate is not None

    def admit(self, wanted: Wanted) -> None:
        """Say who may ask it from now on."""
        self.order({"do": "access", "access": wanted.access, "keys": wanted.keys, "token_key": wanted.token_key})

    def order(self, order: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """One packet; whoever takes none any more is ended, since it would miss what others rely on."""
        if self.line is None:
            return
        try:
            send_order(self.line, order, descriptors)
        except BlockingIOError:
            kill(self.process)
        except OSError:
            pass  # It has ended, and is reaped at the next step.

    def events(self) -> Iterator[Dict[str, Any]]:
        """All that it has said; ValueError where that is no packet of ours."""
        while self.line is not None:
            try:
                data = self.line.recv(ORDER_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self.heard_at = time.monotonic()
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError(f"{event!r:.100} is no event")
            yield event

    def end(self) -> None:
        """End it at once."""
        self.close()
        kill(self.process)

    def close(self) -> None:
        """Hear nothing more of it."""
        if self.line is not None:
            self.line.close()
            self.line = None
