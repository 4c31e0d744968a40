"""The threads on which handlers may block: as many as there are, and no more."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

T = TypeVar("T")

#: Most requests that block at once; further ones wait for their turn.
THREADS_MAX = 40

_pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="handler")


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """The function's value, without holding up the event loop; it should be short all the same."""
    return await asyncio.get_running_loop().run_in_executor(_pool, function, *arguments)
