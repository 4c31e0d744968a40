"""Which requests go to a model together: as many rows as it is seen to do in time, and no more than it may take."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy
import pytest

from runyard.protocol.scoring import ModelFacts
from runyard.protocol.services import Deployment
from runyard.protocol.wire import to_wire
from runyard.scoring import frames
from runyard.scoring.loaded import _answer
from runyard.serving.replicas import BATCH_S, Job, Pool

uvloop = pytest.importorskip("uvloop")

#: How long the model takes for a row, seconds.
ROW_S = 0.004
CALLERS = 60


class Slow:
    """A model that takes its time for each row, and remembers how many it was given at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, _signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        self.batches.append(len(inputs["x"]))
        time.sleep(ROW_S * len(inputs["x"]))
        return {"y": 2 * inputs["x"]}


class Asked:
    """A pool with one replica, asked from this thread."""

    def __init__(self, deployment: Deployment) -> None:
        self.model = Slow()
        self._loop = uvloop.new_event_loop()
        self._pool = Pool(deployment, lambda event: None)
        self._ours, self._theirs = socket.socketpair()
        self._threads = [threading.Thread(target=self._serve), threading.Thread(target=self._loop.run_forever)]
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop)
        for one in self._threads:
            one.start()

    async def _begin(self) -> None:
        replica = self._pool.add(1)
        await self._loop.create_unix_connection(lambda: replica, sock=self._ours)

    def _serve(self) -> None:
        with self._theirs:
            frames.send(self._theirs, {"ready": to_wire(ModelFacts("tensors", "Custom"))})
            while True:
                message = frames.receive(self._theirs)
                if message is None:
                    return
                _answer(self._theirs, self.model, *message)

    def ask(self, rows: int) -> "Future[Any]":
        found: Future[Any] = Future()
        values = numpy.random.default_rng().random((rows, 2))

        def done(outputs: Any, error: Any) -> None:
            assert error is None, error
            found.set_result(bool((outputs["y"] == 2 * values).all()))

        self._loop.call_soon_threadsafe(self._pool.submit, Job("s", {"x": values}, rows, done))
        return found

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._pool.drop, 1)
        self._threads[0].join()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads[1].join()
        self._loop.close()


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    made = Asked(Deployment(batch_rows=request.param))
    yield made
    made.end()


@pytest.mark.parametrize("asked", [1_000], indirect=True)
def test_as_many_rows_go_together_as_the_model_is_seen_to_do_in_time(asked: Asked) -> None:
    for _ in range(10):
        assert asked.ask(1).result(10)
    learned = len(asked.model.batches)
    assert learned == 10
    found = [asked.ask(1) for _ in range(CALLERS)]
    assert all(one.result(10) for one in found), "each has its own rows"
    batches = asked.model.batches[learned:]
    assert sum(batches) == CALLERS
    # A sleep takes longer than it is told to, never less.
    assert 1 < max(batches) <= BATCH_S / ROW_S


@pytest.mark.parametrize("asked", [4], indirect=True)
def test_no_more_rows_go_together_than_may(asked: Asked) -> None:
    found = [asked.ask(1) for _ in range(CALLERS)]
    assert all(one.result(10) for one in found)
    assert max(asked.model.batches) == 4
    asked.model.batches.clear()
    assert asked.ask(9).result(10), "a request is not divided"
    assert asked.model.batches == [9]


@pytest.mark.parametrize("asked", [1], indirect=True)
def test_each_request_goes_by_itself_where_that_is_asked_for(asked: Asked) -> None:
    found = [asked.ask(1) for _ in range(10)]
    assert all(one.result(10) for one in found)
    assert asked.model.batches == [1] * 10
