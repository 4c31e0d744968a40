"""Processes that a supervisor has started."""

import os
import signal
import subprocess


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it started, at once; a sandbox takes its own along."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()


def ended(code: int) -> str:
    """How a process has ended, by its exit code."""
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        try:
            return f"by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exit code {code}"
