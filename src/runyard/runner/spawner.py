"""The first process in a sandbox of several: starts each that it is told of, and tells how each of them ended.

Started with the runner's Python, on its own and by path: ``python -I -S spawner.py DESCRIPTOR COUNT``. A message brings
two files: what to start, as texts that are each ended by a NUL (its log, its working folder, how many variables it has,
these, its command), and the pipe that takes its exit code.
"""

import array
import os
import signal
import socket
import sys
from typing import Dict, Sequence, Tuple


def main(descriptor: int, count: int) -> None:
    """Start that many, and wait for the last one."""
    # It ends when they have; a handler, unlike what is ignored, is not theirs too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    line = socket.socket(fileno=descriptor)
    pipes: Dict[int, int] = {}
    for _ in range(count):
        told, pipe = _receive(line)
        with os.fdopen(told, "rb") as file:
            file.seek(0)
            texts = [os.fsdecode(one) for one in file.read().split(b"\0")[:-1]]
        pipes[_start(texts, [descriptor, pipe, *pipes.values()])] = pipe
    while pipes:
        pid, status = os.wait()
        if pid in pipes:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            os.write(pipes[pid], str(code).encode())
            os.close(pipes.pop(pid))


def _receive(line: socket.socket) -> Tuple[int, int]:
    """The two files of a message."""
    found = array.array("i", [])
    _, ancillary, _, _ = line.recvmsg(1, socket.CMSG_LEN(2 * found.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data)
    told, pipe = found
    return told, pipe


def _start(texts: Sequence[str], own: Sequence[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(texts, own)
    except OSError as error:
        os.write(2, f"{error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _become(texts: Sequence[str], own: Sequence[int]) -> None:
    log_path, work, count, *rest = texts
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for one in (log, *own):
        os.close(one)
    os.chdir(work)
    variables = dict(one.split("=", 1) for one in rest[: int(count)])
    command = rest[int(count) :]
    os.execvpe(command[0], command, variables)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
