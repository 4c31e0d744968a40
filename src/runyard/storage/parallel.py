"""The same for many, a few at once; on threads that never hold up the end of the process, as a pool's would."""

import threading
from typing import Callable, Iterable, List, TypeVar

T = TypeVar("T")

#: Requests to the service at once, for one who asks.
WIDTH = 8


def in_parallel(function: Callable[[T], None], items: Iterable[T], width: int = WIDTH) -> None:
    """Call ``function`` with each item; the first error ends it, after what is under way."""
    waiting = list(items)[::-1]
    if len(waiting) == 1:
        function(waiting[0])
        return
    errors: List[BaseException] = []

    def work() -> None:
        while waiting and not errors:
            try:
                item = waiting.pop()
            except IndexError:
                return
            try:
                function(item)
            except BaseException as error:  # noqa: BLE001 - raised below, by whoever waits
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(width, len(waiting)))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if errors:
        raise errors[0]
