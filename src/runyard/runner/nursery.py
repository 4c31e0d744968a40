"""Forks runners for a local server: a single-threaded child that has imported the runner already and keeps no state.

It is spoken to over an inherited socket pair, a JSON message a fork, and ends when the server's end is closed. One
runner is forked ahead and waits for its attempt, so that no attempt waits for a fork.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any, Dict, Set

from runyard.protocol.blobs import Offset
from runyard.protocol.metrics import MetricsReply
from runyard.protocol.plan import LaunchPlan, NodeFacts, ReportReply
from runyard.protocol.runs import Count
from runyard.protocol.wire import prepare
from runyard.runner.__main__ import main as run_attempt
from runyard.runner.folder import claim
from runyard.runner.processes import adopt_orphans

MESSAGE_BYTES = 65_536


def main(descriptor: int) -> None:
    """Serve forks until the server is gone."""
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    # Ended runners are reaped by the kernel: one fork does, and the nursery keeps no list of children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What a killed runner leaves behind comes to us, also a daemon that cleared its environment.
    adopt_orphans()
    _prepare()
    runners: Set[int] = set()
    spare = _Spare(connection)
    while True:
        try:
            message = connection.recv(MESSAGE_BYTES)
        except OSError:
            return
        if not message:
            return
        try:
            answer = spare.become(message)
        except OSError:
            # Somebody killed it while it waited.
            spare = _Spare(connection)
            answer = spare.become(message)
        connection.send(json.dumps(answer).encode())
        runners.add(spare.pid)
        spare = _Spare(connection)
        _end_orphans(runners, spare.pid)


def _end_orphans(runners: Set[int], spare: int) -> None:
    """End the children that are no runner of ours: each was left by a runner that was killed."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = {int(pid) for pid in file.read().split()}
    runners &= children
    for pid in children - runners - {spare}:
        os.kill(pid, signal.SIGKILL)


def _prepare() -> None:
    """Do now what each runner would do for itself at its first request."""
    "localhost".encode("idna")
    prepare(LaunchPlan, NodeFacts, ReportReply, Count, Offset, MetricsReply)
    gc.collect()
    gc.freeze()


class _Spare:
    """A forked process that waits to be told whose runner it is; it ends if the nursery does."""

    def __init__(self, connection: socket.socket) -> None:
        told, self._tell = os.pipe()
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for descriptor in (self._tell, self._answer):
                    os.close(descriptor)
                connection.close()
                _wait(told, answering)
            finally:
                os._exit(0)
        os.close(told)
        os.close(answering)

    def become(self, message: bytes) -> Dict[str, Any]:
        """Let it be the runner of that request; returns once its identity is on disk. OSError where it is gone."""
        with os.fdopen(self._answer, "rb") as pipe:
            try:
                os.write(self._tell, message)
            finally:
                os.close(self._tell)
            answer = pipe.read()
        if answer == b"ok":
            return {"ok": True}
        number, _, text = answer.decode("utf-8", "replace").partition(" ")
        return {"ok": False, "errno": int(number or 0), "error": text or "it died"}


def _wait(told: int, answering: int) -> None:
    message = os.read(told, MESSAGE_BYTES)
    os.close(told)
    if message:
        request = json.loads(message)
        _become_runner(str(request["folder"]), bool(request.get("recover")), answering)


def _become_runner(folder: str, is_recovery: bool, writing: int) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _replace_standard_files(os.path.join(folder, "runner.log"))
        claim(folder)
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
        os.write(writing, f"{getattr(error, 'errno', None) or 0} {error}".encode("utf-8", "replace")[:1000])
    except OSError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
