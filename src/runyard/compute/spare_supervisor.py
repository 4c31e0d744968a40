"""A supervisor that is started before its service is known: what it imports, and its front, need not be waited for."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Optional, Sequence

from runyard.errors import ServiceException


def supervisor_variables() -> Dict[str, str]:
    """The variables of every supervisor, which is no place for those of the server."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    names = ("HOME", "USER", "LANG", "TZ", "TMPDIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": package}


class SpareSupervisor:
    """One process; it ends with this one until it has a service."""

    def __init__(self, isolation: str, hidden: Sequence[str]) -> None:
        """What services of this host may see is said now; ServiceException where no process can be had."""
        try:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", "runyard.serving", "--spare", str(theirs.fileno()), isolation, *hidden]
            with theirs, ExitStack() as stack:
                stack.callback(self._line.close)
                # What it says before it has a service's log goes to this server's.
                self._process = subprocess.Popen(
                    command, env=supervisor_variables(), stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )  # fmt: skip
                stack.pop_all()
        except OSError as error:
            raise ServiceException(f"No supervisor can be started ahead: {error}.") from None

    @property
    def is_alive(self) -> bool:
        """Does it wait still?"""
        return self._process.poll() is None

    def take(self, folder: Path, log: int) -> "Optional[subprocess.Popen[bytes]]":
        """Let it supervise the service of that folder, and write to its log; None where it is gone."""
        if not self.is_alive:
            return None
        with self._line:
            try:
                socket.send_fds(self._line, [json.dumps({"folder": str(folder)}).encode()], [log])
            except OSError:
                return None
        return self._process

    def end(self) -> None:
        """Give its memory back."""
        self._line.close()
        self._process.kill()
        self._process.wait()
