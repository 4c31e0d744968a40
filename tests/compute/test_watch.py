"""The thread that asks an engine: what control is told while it is away, refuses, or says what nobody expects."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from runyard.compute.remote import EngineAwayError
from runyard.compute.watch import Watch
from runyard.errors import ServiceException
from runyard.protocol.plan import Observation, ObservedState


class Engine:
    """An engine with attempts that live, which can be away or say nonsense."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.alive: set[str] = set()
        self.looks = 0

    def look(self, keys: Sequence[str]) -> dict[str, Observation]:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        return {key: Observation(key, ObservedState.ALIVE) for key in self.alive}

    def start(self, key: str) -> Callable[[], None]:
        def start() -> None:
            if self.trouble is not None:
                raise self.trouble
            self.alive.add(key)

        return start


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def watch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr("runyard.compute.watch.LOOK_S", 0.05)
    made = Watch("engine", engine.look)
    yield made
    made.close()


def state_of(watch: Watch, key: str) -> str:
    found = watch.observe([key]).get(key)
    return "nothing" if found is None else found.state


def wait_for(watch: Watch, key: str, state: str) -> Observation:
    ends_at = time.monotonic() + 10
    while state_of(watch, key) != state:
        assert time.monotonic() < ends_at, state_of(watch, key)
        time.sleep(0.01)
    return watch.observe([key])[key]


def test_attempt_is_alive_once_the_engine_shows_it(watch: Watch, engine: Engine) -> None:
    watch.begin("a/1", engine.start("a/1"))
    wait_for(watch, "a/1", ObservedState.ALIVE)
    engine.alive.clear()
    wait_for(watch, "a/1", ObservedState.UNKNOWN)


def test_engine_that_is_away_is_tried_again_and_says_so(watch: Watch, engine: Engine) -> None:
    engine.trouble = EngineAwayError("It is away.")
    watch.begin("a/1", engine.start("a/1"))
    ends_at = time.monotonic() + 10
    while "It is away." not in wait_for(watch, "a/1", ObservedState.WAITING).detail:
        assert time.monotonic() < ends_at
    engine.trouble = None
    wait_for(watch, "a/1", ObservedState.ALIVE)


def test_what_was_seen_stays_while_the_engine_is_away(watch: Watch, engine: Engine) -> None:
    engine.alive.add("a/1")
    wait_for(watch, "a/1", ObservedState.ALIVE)
    engine.trouble = EngineAwayError("It is away.")
    looks = engine.looks
    while engine.looks < looks + 3:
        assert state_of(watch, "a/1") == ObservedState.ALIVE
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(ServiceException("No such partition."), "No such partition."), (ValueError("x"), "ValueError")],
)
def test_refusal_is_told_and_the_next_attempt_is_taken(
    watch: Watch, engine: Engine, trouble: Exception, said: str
) -> None:
    """Also where it is of a kind that nobody has thought of."""
    engine.trouble = trouble
    watch.begin("a/1", engine.start("a/1"))
    assert said in wait_for(watch, "a/1", ObservedState.REFUSED).detail
    engine.trouble = None
    watch.begin("b/1", engine.start("b/1"))
    wait_for(watch, "b/1", ObservedState.ALIVE)


def test_attempt_that_is_canceled_before_it_is_taken_never_starts(watch: Watch, engine: Engine) -> None:
    engine.trouble = EngineAwayError("It is away.")
    watch.begin("a/1", engine.start("a/1"))
    wait_for(watch, "a/1", ObservedState.WAITING)
    watch.forget("a/1")
    engine.trouble = None
    wait_for(watch, "a/1", ObservedState.UNKNOWN)
    assert not engine.alive


def test_control_never_waits_for_an_engine_that_hangs(watch: Watch) -> None:
    goes_on = threading.Event()
    watch.do("hang", lambda: goes_on.wait(10) and None)
    began = time.monotonic()
    watch.begin("a/1", lambda: None)
    watch.do("something", lambda: None)
    assert state_of(watch, "a/1") == ObservedState.WAITING
    assert time.monotonic() - began < 5
    goes_on.set()


def test_what_is_asked_for_again_and_again_is_done_once(watch: Watch, engine: Engine) -> None:
    """A cancel is asked for each second, also while the engine hangs."""
    goes_on, done = threading.Event(), []
    watch.do("hang", lambda: goes_on.wait(10) and None)
    for _ in range(3):
        watch.do("stop a/1", lambda: done.append("a/1"))
    watch.do("stop b/1", lambda: done.append("b/1"))
    goes_on.set()
    watch.begin("a/1", engine.start("a/1"))
    wait_for(watch, "a/1", ObservedState.ALIVE)
    assert done == ["a/1", "b/1"]


def test_engine_that_is_away_is_not_asked_for_each_attempt(watch: Watch, engine: Engine) -> None:
    asked: list[str] = []
    hangs, goes_on = threading.Event(), threading.Event()

    def stop() -> None:
        asked.append("stop")
        raise EngineAwayError("It is away.")

    def hang() -> None:
        hangs.set()
        goes_on.wait(10)

    watch.do("hang", hang)
    # Else some of what follows would be asked for with it, and the rest in another turn.
    assert hangs.wait(10)
    for number in range(20):
        watch.do(f"stop {number}", stop)
    goes_on.set()
    watch.begin("a/1", engine.start("a/1"))
    wait_for(watch, "a/1", ObservedState.ALIVE)
    assert asked == ["stop"]
