"""Wakes requests that wait for something to happen to a run; holds no data, so a lost wake-up costs one look."""

import asyncio
from typing import Optional, Set


class Events:
    """Who waits for which run. ``notify`` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._waiting: Set[asyncio.Future[None]] = set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop in which requests wait."""
        self._loop = loop

    def notify(self) -> None:
        """Something has happened: everybody looks again."""
        loop = self._loop
        if loop is not None and self._waiting:
            try:
                loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                pass

    def listen(self) -> "asyncio.Future[None]":
        """Something that the next notification completes; listen first, then look, so that nothing is missed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    async def wait(self, heard: "asyncio.Future[None]", timeout_s: float) -> None:
        """Return at the notification, or after the time."""
        try:
            await asyncio.wait_for(heard, timeout_s)
        except TimeoutError:
            pass

    def _wake(self) -> None:
        for future in list(self._waiting):
            if not future.done():
                future.set_result(None)
