"""Forks runners for a local server: a single-threaded child that has imported the runner already and keeps no state.

It is spoken to over an inherited socket pair, a JSON message a fork, and ends when the server's end is closed.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any, Dict

from runyard.runner.__main__ import main as run_attempt
from runyard.runner.folder import write_identity

MESSAGE_BYTES = 65_536


def main(descriptor: int) -> None:
    """Serve forks until the server is gone."""
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    # Ended runners are reaped by the kernel: one fork does, and the nursery keeps no list of children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        try:
            message = connection.recv(MESSAGE_BYTES)
        except OSError:
            return
        if not message:
            return
        connection.send(json.dumps(_fork(connection, json.loads(message))).encode())


def _fork(connection: socket.socket, request: Dict[str, Any]) -> Dict[str, Any]:
    """Fork a runner in a session of its own, and wait until its identity is on disk."""
    folder, is_recovery = str(request["folder"]), bool(request.get("recover"))
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.close(reading)
            connection.close()
            _become_runner(folder, is_recovery, writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    return {"ok": True} if answer == b"ok" else {"ok": False, "error": answer.decode("utf-8", "replace") or "it died"}


def _become_runner(folder: str, is_recovery: bool, writing: int) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _replace_standard_files(os.path.join(folder, "runner.log"))
        write_identity(folder)
        os.write(writing, b"ok")
        os.close(writing)
        code = run_attempt(folder, is_recovery)
    except BaseException as error:  # noqa: BLE001 - the last thing that this process can say
        _last_words(writing, error)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _replace_standard_files(log_path: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _last_words(writing: int, error: BaseException) -> None:
    traceback.print_exc()
    try:
        os.write(writing, str(error).encode("utf-8", "replace")[:1000])
    except OSError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
