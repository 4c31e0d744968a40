"""What this process leaves behind when it ends, told to an observer: a process of its own that outlives it.

A run of ``start_logging`` that nobody ended is Completed when the process ends in order, and Failed when an exception,
``sys.exit`` with a failure or a signal ends it; values that were logged and not sent yet are sent in each case.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from typing import Any, Dict, NoReturn, Optional

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


class _Exit(SystemExit):
    """Raised by ``sys.exit`` while a run is observed: tells when nobody needs it any more.

    One that is caught goes while some code goes on; one that the interpreter ends by goes when no code is left.
    """

    observer: "Optional[_Observer]" = None

    def __del__(self) -> None:
        if self.observer is not None:
            self.observer.note_exit(self.code)

    def __reduce__(self) -> Any:
        # In another process it is nothing special.
        return SystemExit, self.args


class _Observer:
    """The other process and what it knows."""

    def __init__(self) -> None:
        self._start()
        self._guard = threading.Lock()
        self._left: Dict[str, Dict[str, Any]] = {}
        self._failure: Optional[str] = None
        self._is_over = False
        self._excepthook, self._exit = sys.excepthook, sys.exit
        # Kept, since each look at a method makes another object.
        self._hooks = self._note_failure, self._raise_exit
        sys.excepthook = self._hooks[0]
        atexit.register(self._leave)

    def tell(self, key: str, left: Dict[str, Any]) -> None:
        """Replace what is left under that key; nothing: it is settled."""
        with self._guard:
            self._left.pop(key, None)
            if left:
                self._left[key] = left
            self._hold_exit(any(one.get("status") for one in self._left.values()))
            try:
                self._send(key, left)
            except OSError:
                # It was killed, and what it was told is lost.
                if self._left:
                    self._start_again()
            except ValueError:
                # This process has taken its leave: the other one is at work.
                pass

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runyard.client.observer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )

    def _start_again(self) -> None:
        """Tell a new process all that is left; where that fails too, the next call tries once more."""
        self._close()
        self._process.kill()
        self._process.wait()
        try:
            self._start()
            for key, one in self._left.items():
                self._send(key, one)
        except OSError:
            pass

    def _send(self, key: str, left: Dict[str, Any]) -> None:
        self._stdin.write((json.dumps({"key": key, **left}) + "\n").encode("utf-8"))

    def drop(self) -> None:
        """In a fork: the pipe is its parent's, which alone is observed."""
        self._left.clear()
        self._is_over = True
        self._hold_exit(False)
        self._close()

    def _close(self) -> None:
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
        # At a prompt an error ends a line and not the process.
        if not _is_at_prompt():
            self._failure = f"{kind.__name__}: {error}"
        self._excepthook(kind, error, trace)

    def _hold_exit(self, is_held: bool) -> None:
        """Let ``sys.exit`` be ours, or what it was; one that others have put over it stays and leads through ours."""
        if is_held and not self._is_over and sys.exit is self._exit:
            sys.exit = self._hooks[1]
        elif not is_held and sys.exit is self._hooks[1]:
            sys.exit = self._exit

    def _raise_exit(self, code: Any = None) -> NoReturn:
        """``sys.exit``; a failure is raised as one that tells how it ended."""
        if not code or isinstance(code, tuple) or self._is_over:
            self._exit(code)
        error = _Exit(code)
        error.observer = self
        try:
            raise error
        finally:
            # Its traceback holds this frame, which must not hold it: it would not go.
            del error

    def note_exit(self, code: Any) -> None:
        """A ``SystemExit`` is gone; was it by the end of the program, below which there is no code?"""
        if self._is_over or threading.current_thread() is not threading.main_thread():
            return
        # This function's frame, above it that of __del__, above that one's who catches it.
        if sys._getframe(1).f_back is None:
            self._failure = f"The process ended with exit code {code}." if isinstance(code, int) else str(code)

    def _leave(self) -> None:
        """At the process's end: say how its runs end, and wait a moment for what is left to be sent."""
        failure, self._is_over = self._failure, True
        for key, one in list(self._left.items()):
            if one.get("status") is not None:
                self.tell(key, {**one, "status": "Completed" if failure is None else "Failed", "error": failure})
        is_waited_for = bool(self._left)
        try:
            if is_waited_for and self._process.poll() is not None:
                self._start_again()
            self._stdin.close()
            if is_waited_for:
                select.select([self._stdout], [], [], EXIT_WAIT_S)
        except (OSError, ValueError):
            pass


def _is_at_prompt() -> bool:
    """Does the process go on after an error, with somebody at a prompt?"""
    if hasattr(sys, "ps1") or sys.flags.inspect:
        return True
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


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
