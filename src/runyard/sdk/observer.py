"""What this process leaves behind when it ends, told to an observer: a process of its own that outlives it.

A run of ``start_logging`` that nobody ended is Completed when the process ends in order, and Failed when an exception
or a signal ends it; values that were logged and not sent yet are sent in each case.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from typing import Any, Dict, Optional

from runyard.sdk.session import is_in_run, server_place

#: How long a process waits at its end for what it left to be sent, seconds.
EXIT_WAIT_S = 10.0
#: What is said of a run whose process was killed.
GONE = "The process that logged this run is gone."


def observe_run(workspace: str, run_id: str) -> None:
    """A run that this process carries: to be ended if nobody else does."""
    found = _of_process()
    if found is not None:
        found.tell(run_id, {"workspace": workspace, "run": run_id, "status": "Failed", "error": GONE, **server_place()})


def observe_folder(workspace: str, run_id: str, folder: str) -> None:
    """A spool folder of that run: to be sent if this process cannot."""
    found = _of_process()
    if found is not None:
        found.tell(folder, {"workspace": workspace, "run": run_id, "folder": folder, **server_place()})


def forget(key: str) -> None:
    """The run has ended, or the folder has been sent."""
    if _observer is not None:
        _observer.tell(key, {})


class _Observer:
    """The other process and what it knows."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runyard.client.observer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        self._guard = threading.Lock()
        self._left: Dict[str, Dict[str, Any]] = {}
        self._failure: Optional[str] = None
        self._excepthook = sys.excepthook
        sys.excepthook = self._note_failure
        atexit.register(self._leave)

    def tell(self, key: str, left: Dict[str, Any]) -> None:
        """Replace what is left under that key; nothing: it is settled."""
        with self._guard:
            self._left.pop(key, None)
            if left:
                self._left[key] = left
            try:
                self._stdin.write((json.dumps({"key": key, **left}) + "\n").encode("utf-8"))
            except (OSError, ValueError):
                # It was killed: what it was told is lost, which is no reason to disturb this process.
                pass

    def drop(self) -> None:
        """In a fork: the pipe is its parent's, which alone is observed."""
        self._left.clear()
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except OSError:
                pass

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout

    def _note_failure(self, kind: Any, error: Any, trace: Any) -> None:
        self._failure = f"{kind.__name__}: {error}"
        self._excepthook(kind, error, trace)

    def _leave(self) -> None:
        """At the process's end: say how its runs end, and wait a moment for what is left to be sent."""
        for key, one in list(self._left.items()):
            if one.get("status") is not None:
                status = "Completed" if self._failure is None else "Failed"
                self.tell(key, {**one, "status": status, "error": self._failure})
        is_waited_for = bool(self._left)
        try:
            self._stdin.close()
            if is_waited_for:
                select.select([self._stdout], [], [], EXIT_WAIT_S)
        except (OSError, ValueError):
            pass


_observer: Optional[_Observer] = None
_starting = threading.Lock()


def _of_process() -> Optional[_Observer]:
    """This process's observer, started at the first need; None inside a job, whose runner does all that."""
    global _observer
    if is_in_run():
        return None
    with _starting:
        if _observer is None:
            try:
                _observer = _Observer()
            except OSError:
                return None
    return _observer


def _forget_parent() -> None:
    global _observer
    if _observer is not None:
        _observer.drop()
    _observer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
