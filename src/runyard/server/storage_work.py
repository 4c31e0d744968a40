"""Work that waits for a storage service: threads of its own, a few a datastore, and an end.

A service that takes a connection and says nothing must cost nobody but those who ask for it.
"""

import asyncio
import threading
from concurrent.futures import Future
from typing import Any, AsyncIterator, BinaryIO, Callable, Dict, TypeVar

from runyard.errors import ServiceException
from runyard.server.threads import in_thread
from runyard.storage.base import ArtifactStore

T = TypeVar("T")

#: Most requests that wait for services at once, and for one of them; longest wait, shorter than a client's own.
ALL_MAX, EACH_MAX, DEADLINE_S = 24, 4, 45.0
#: The artifact store, where it is a service: its name here, and most requests that wait for it at once.
ARTIFACTS, ARTIFACTS_MAX = "artifacts", 24
#: Pieces in which a file is passed on, bytes.
PIECE_BYTES = 1 << 20

_all = asyncio.Semaphore(ALL_MAX)
_each: Dict[str, asyncio.Semaphore] = {}
_artifacts = asyncio.Semaphore(ARTIFACTS_MAX)


async def in_storage_thread(store: str, function: Callable[..., T], *arguments: Any) -> T:
    """The function's value; ServiceException where the service of ``store`` takes too long."""
    try:
        return await asyncio.wait_for(_admitted(store, function, *arguments), DEADLINE_S)
    except TimeoutError:
        what = "The artifact store" if store == ARTIFACTS else f"The service of datastore {store.rpartition('/')[2]!r}"
        raise ServiceException(f"{what} did not answer within {DEADLINE_S:.0f} seconds.") from None


async def in_store_thread(store: ArtifactStore, function: Callable[..., T], *arguments: Any) -> T:
    """The value of a function that reads or writes contents: as any other where they lie on this disk."""
    if not store.is_remote:
        return await in_thread(function, *arguments)
    return await in_storage_thread(ARTIFACTS, function, *arguments)


async def pieces_of(store: str, file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """The file's bytes; ends early where the service does, which the reader sees by the length."""
    try:
        while size > 0:
            piece = await in_storage_thread(store, file.read, min(size, PIECE_BYTES))
            if not piece:
                return
            size -= len(piece)
            yield piece
    finally:
        threading.Thread(target=file.close, daemon=True).start()


async def _admitted(store: str, function: Callable[..., T], *arguments: Any) -> T:
    limits = [_artifacts]
    if store != ARTIFACTS:
        limits = [_each.setdefault(store, asyncio.Semaphore(EACH_MAX)), _all]
    taken = []
    try:
        for limit in limits:
            await limit.acquire()
            taken.append(limit)
    except BaseException:
        for limit in taken:
            limit.release()
        raise
    loop, work = asyncio.get_running_loop(), Future[T]()

    def leave(_: "Future[T]") -> None:
        # Called when the thread ends, however long after its caller gave up: until then its place is taken.
        for limit in limits:
            loop.call_soon_threadsafe(limit.release)

    work.add_done_callback(leave)
    # A thread each, and no pool: a pool's threads hold up the end of the process.
    threading.Thread(target=_carry_out, args=(work, function, arguments), name="storage", daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(work))


def _carry_out(work: "Future[T]", function: Callable[..., T], arguments: Any) -> None:
    try:
        work.set_result(function(*arguments))
    except BaseException as error:  # noqa: BLE001 - told to whoever waits
        work.set_exception(error)
