"""What every benchmark shares: medians, a line a figure, and a server in a home of its own."""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def seconds(action: Callable[[], Any]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def median_s(action: Callable[[], Any], runs: int, warm_up: int = 1) -> float:
    """The median of several calls, after a warm-up."""
    for _ in range(warm_up):
        action()
    return statistics.median(seconds(action) for _ in range(runs))


def say(what: str, value: str, goal: str, beside: str = "") -> None:
    """One figure, its goal, and what it stands beside."""
    print(f"{what:<58} {value:>16}   goal {goal:<22} {beside}", flush=True)


@contextlib.contextmanager
def own_server() -> Iterator[Path]:
    """A server of this process alone; stopped at the end."""
    from runyard.client.local_server import connect
    from runyard.sdk.session import forget_server

    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        os.environ["RUNYARD_HOME"] = folder
        forget_server()
        try:
            yield Path(folder)
        finally:
            connect().call("stop_server")
            time.sleep(0.5)
