"""Several processes of a run in one sandbox, as in one container: some of what they share goes by their numbers.

The memory of a GPU does, for one: CUDA hands it from process to process, and knows these by their pids.
"""

import array
import os
import select
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from runyard.runner import spawner
from runyard.runner.processes import Script

#: Starts a sandbox around that command, which inherits those descriptors.
StartSandbox = Callable[[List[str], Tuple[int, ...]], Script]
#: How long a sandbox takes to be gone after its last process, seconds.
GONE_S = 5.0


class Gang:
    """A Launcher for a known number of processes; the sandbox starts with the first, and ends with the last of them."""

    def __init__(self, start: StartSandbox, count: int) -> None:
        self._start = start
        self._count = count
        self._left = count
        self._line: Optional[socket.socket] = None
        self._sandbox: Optional[Script] = None
        self._is_told_to_end = False

    def __call__(self, command: List[str], variables: Dict[str, str], work: Path, log: Path) -> Script:
        """Start one of them."""
        if self._line is None:
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            number = theirs.fileno()
            words = [sys.executable, "-I", "-S", os.path.abspath(spawner.__file__), str(number), str(self._count)]
            with theirs:
                self._sandbox = self._start(words, (number,))
        assert self._sandbox is not None
        reading, writing = os.pipe()
        try:
            with tempfile.TemporaryFile() as told:
                settings = [f"{name}={text}" for name, text in variables.items()]
                texts = [str(log), str(work), str(len(settings)), *settings, *command]
                told.write(b"".join(os.fsencode(one) + b"\0" for one in texts))
                told.flush()
                files = array.array("i", [told.fileno(), writing])
                self._line.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return GangScript(self, self._sandbox, reading)

    def terminate(self) -> None:
        """Ask all of them to end, once."""
        if self._sandbox is not None and not self._is_told_to_end:
            self._is_told_to_end = True
            self._sandbox.terminate()

    def note_end(self) -> None:
        """One of them has ended."""
        self._left -= 1
        if self._left == 0 and self._sandbox is not None and self._line is not None:
            self._sandbox.wait(GONE_S)
            self._sandbox.close()
            self._line.close()


class GangScript(Script):
    """One of the processes; its pid is its sandbox's, whose end is the end of all."""

    def __init__(self, gang: Gang, sandbox: Script, pipe: int) -> None:
        self._gang = gang
        self._sandbox = sandbox
        self._code: Optional[int] = None
        self._descriptor = pipe
        self._poller = select.poll()
        self._poller.register(pipe, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._sandbox.pid

    def wait(self, timeout_s: float) -> Optional[int]:
        if self._code is None and self._poller.poll(max(0, timeout_s * 1000)):
            told = os.read(self._descriptor, 16)
            # Nothing: the sandbox was ended, and this one with it.
            self._code = int(told) if told else -signal.SIGKILL
            self._gang.note_end()
        return self._code

    def terminate(self) -> None:
        self._gang.terminate()
