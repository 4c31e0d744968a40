"""Wakes requests that wait for something to happen to a run; holds no data, so a lost wake-up costs one look."""

import asyncio
from typing import Dict, Optional, Set


class Events:
    """Who waits for which run. ``notify`` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._waiting: Dict[str, Set[asyncio.Future[None]]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop in which requests wait."""
        self._loop = loop

    def notify(self, run_id: Optional[str] = None) -> None:
        """Something has happened to that run, or to all: whoever waits for it looks again."""
        loop = self._loop
        if loop is not None and (self._waiting if run_id is None else run_id in self._waiting):
            try:
                loop.call_soon_threadsafe(self._wake, run_id)
            except RuntimeError:
                pass

    def listen(self, run_id: str) -> "asyncio.Future[None]":
        """Something that the run's next notification completes; listen first, then look, so that nothing is missed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        future.add_done_callback(lambda done: self._forget(run_id, done))
        return future

    async def wait(self, heard: "asyncio.Future[None]", timeout_s: float) -> None:
        """Return at the notification, or after the time."""
        try:
            await asyncio.wait_for(heard, timeout_s)
        except TimeoutError:
            pass

    def _wake(self, run_id: Optional[str]) -> None:
        for waiting in [self._waiting.get(run_id, ())] if run_id is not None else list(self._waiting.values()):
            for future in list(waiting):
                if not future.done():
                    future.set_result(None)

    def _forget(self, run_id: str, future: "asyncio.Future[None]") -> None:
        waiting = self._waiting.get(run_id, set())
        waiting.discard(future)
        if not waiting:
            self._waiting.pop(run_id, None)
