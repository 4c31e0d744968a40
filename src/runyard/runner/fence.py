"""Ends the processes of an attempt that is cut off from its server: another attempt may begin elsewhere by then."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Callable

from runyard.runner.processes import descendants, signal_process

#: Between two looks at the clock, seconds.
STEP_S = 0.2


def clock() -> float:
    """Seconds that go on while the machine is suspended: its server counts them too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Fence(threading.Thread):
    """Beside the runner, whose own requests may hang for longer than the fence allows."""

    def __init__(self, fence_s: float, grace_s: float, heard_at: Callable[[], float], tell: Callable[[], None]) -> None:
        """``heard_at``: when a request that the server has answered was sent, by ``clock``. ``tell``: say that all is
        ended now."""
        super().__init__(name="fence", daemon=True)
        self._fence_s, self._grace_s = fence_s, grace_s
        self._heard_at, self._tell = heard_at, tell
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(STEP_S):
            if clock() - self._heard_at() > self._fence_s:
                with suppress(OSError):  # The disk may be full.
                    self._tell()
                self._signal(signal.SIGTERM)
                if not self._is_over.wait(self._grace_s):
                    self._signal(signal.SIGKILL)
                return

    def close(self) -> None:
        """The processes have ended."""
        self._is_over.set()

    def _signal(self, number: int) -> None:
        me = os.getpid()
        for pid in descendants(me) - {me}:
            signal_process(pid, number)
