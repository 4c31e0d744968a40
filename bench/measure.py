"""What every benchmark shares: medians, a line a figure, and a server in a home of its own."""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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


def medians(measures: Sequence[Callable[[], float]], tries: int) -> list[float]:
    """The median of each, measured in turn, so that what else the machine does falls on all of them."""
    found = [[measure() for measure in measures] for _ in range(tries)]
    return [statistics.median(times) for times in zip(*found, strict=True)]


#: The figures that have missed their goals, as they were said.
missed: list[str] = []


def say(
    what: str, value: float, form: str, goal: float | None = None, beside: str = "", *, is_least: bool = False
) -> None:
    """One figure, its goal, whether that is met, and what it stands beside.

    ``form`` shows figure and goal, as "{:.0f} ms". The goal is the most that the figure may be, or the least.
    """
    told, verdict = "", ""
    if goal is not None:
        is_met = value >= goal if is_least else value <= goal
        told, verdict = f"{'>=' if is_least else '<='} {form.format(goal)}", "met" if is_met else "NOT MET"
        if not is_met:
            missed.append(f"{what}: {form.format(value)}, goal {told}")
    print(f"{what:<58} {form.format(value):>16}   {told:<20} {verdict:<8} {beside}".rstrip(), flush=True)


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
