"""`python -m runyard.environments.build LOCK.json ROOT LOGFILE RESULT.json`: one build, in a process of its own.

The log grows as uv speaks; the result appears whole, by one rename. TERM ends the build and leaves nothing behind.
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, List, Optional

from runyard.environments.realise import realise
from runyard.environments.uv import find_uv
from runyard.errors import RunyardError
from runyard.files.layout import write_atomically
from runyard.protocol import wire
from runyard.protocol.environments import Lock
from runyard.protocol.record import record

#: A log beyond this is cut: what matters stands at its end as the error.
MAX_LOG_BYTES = 16 * 1024 * 1024


@record
class BuildResult:
    """How a build ended."""

    ok: bool
    interpreter: str = ""
    seconds: float = 0.0
    reused: bool = False
    #: One sentence: what failed.
    message: str = ""
    #: What would work, and uv's last lines.
    details: str = ""


class _Ended(BaseException):
    """TERM came."""


def main(arguments: List[str]) -> int:
    """Build the lock in the first file; 0: there is an interpreter, 1: there is none, 2: the arguments are wrong."""
    if len(arguments) != 4:
        sys.stderr.write("usage: python -m runyard.environments.build LOCK.json ROOT LOGFILE RESULT.json\n")
        return 2
    lock_file, root_folder, log_file, result_file = arguments
    signal.signal(signal.SIGTERM, _end)
    with open(log_file, "ab", buffering=0) as stream:
        result = _result(lock_file, root_folder, _LogFile(stream))
        if not result.ok:
            stream.write((result.message + "\n").encode("utf-8"))
    write_result(result, result_file)
    return 0 if result.ok else 1


def read_result(path: str) -> Optional[BuildResult]:
    """What a build wrote; None if it has not ended (or was killed)."""
    try:
        with open(path, encoding="utf-8") as stream:
            return wire.loads(BuildResult, stream.read())
    except FileNotFoundError:
        return None


def write_result(result: BuildResult, path: str) -> None:
    """Put the result at ``path``, whole or not at all."""
    write_atomically(Path(path), wire.dumps(result).encode("utf-8"), mode=0o600)


class _LogFile:
    """Writes each line with its time, up to a limit."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left_bytes = MAX_LOG_BYTES

    def __call__(self, line: str) -> None:
        data = "{} {}\n".format(time.strftime("%H:%M:%S", time.gmtime()), line).encode("utf-8", "replace")
        if len(data) <= self._left_bytes:
            self._left_bytes -= len(data)
            self._stream.write(data)


def _result(lock_file: str, root_folder: str, log: _LogFile) -> BuildResult:
    try:
        with open(lock_file, encoding="utf-8") as stream:
            lock = wire.loads(Lock, stream.read())
        done = realise(lock, root_folder, uv=find_uv(), log=log)
    except RunyardError as error:
        return BuildResult(False, message=error.message, details=error.hint or "")
    except _Ended:
        return BuildResult(False, message="The build was cancelled.")
    except OSError as error:
        return BuildResult(False, message=f"The environment cannot be built: {error}.")
    return BuildResult(True, done.interpreter, done.seconds, done.reused)


def _end(number: int, frame: Optional[FrameType]) -> None:
    raise _Ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
