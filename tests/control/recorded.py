"""Engines that do as a history says, and attempts that are to a server what a runner is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runyard.compute.base import Compute
from runyard.compute.engines import Engines
from runyard.compute.gpus import Gpu
from runyard.compute.remote import EngineAwayError, Reach
from runyard.errors import ServiceException
from runyard.protocol.compute import ClusterSpec
from runyard.protocol.plan import ExitCause, LaunchPlan, Observation, ObservedState, Report, ReportKind

#: How long an attempt of the far engine lives without a word from the server, seconds.
FENCE_S = 60.0
#: How many the host has.
GPUS = 4


class ServerKilledError(Exception):
    """The server died in the middle of a round."""


@dataclass
class Attempt:
    """What a runner is to the server."""

    key: str
    plan: LaunchPlan
    heard_at: int
    is_alive: bool = True
    #: It may begin: a runner elsewhere does once the server has taken a word of it.
    is_let_in: bool = True
    #: Its part is over: nothing of it is left.
    is_over: bool = False
    #: It was told to end, or hears in its next reply that it must.
    is_told: bool = False
    is_canceled: bool = False
    #: It is stopped, or its line to the server is cut: nothing it says arrives.
    is_silent: bool = False
    is_unseen: bool = False
    was_unseen: bool = False
    #: Its engine says so of its node.
    is_lost: bool = False
    unsent: list[Report] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return self.plan.run_id

    def say(self, kind: str, **values: Any) -> None:
        """Note the next report."""
        if kind not in self.kinds:
            self.kinds.append(kind)
            self.unsent.append(Report(self.plan.attempt, len(self.kinds), kind, **values))


class Recorded:
    """An engine whose attempts do what the history says, and nothing by themselves."""

    def __init__(self, world: Any, fence_s: float, can_recover: bool) -> None:
        self._world = world
        self.fence_s = fence_s
        self._can_recover = can_recover
        self.attempts: dict[str, Attempt] = {}
        self.is_away = False

    def prepare(self) -> None:
        pass

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        self._world.meanwhile()
        if self.is_away:
            raise EngineAwayError("It does not answer.")
        trouble = self._world.take_trouble()
        if trouble == "refused":
            raise ServiceException("It refuses.")
        if trouble == "killed before":
            raise ServerKilledError
        if key not in self.attempts:
            self.attempts[key] = Attempt(key, plan, self._world.now, is_let_in=self._can_recover)
        if trouble == "killed after":
            raise ServerKilledError

    def recover(self, key: str) -> bool:
        self._world.meanwhile()
        one = self.attempts[key]
        if not self._can_recover:
            return False
        one.is_alive, one.is_silent = True, False
        one.heard_at = self._world.now
        one.say(ReportKind.EXITED, message="Lost.", cause=ExitCause.RUNNER_LOST, error_code="SystemError")
        return True

    def poll(self, keys: Iterable[str]) -> dict[str, Observation]:
        found = {} if self.is_away else {key: Observation(key, self._state(key)) for key in keys}
        self._world.meanwhile()
        return found

    def _state(self, key: str) -> str:
        one = self.attempts.get(key)
        if one is None or (one.is_over and not one.is_unseen):
            return ObservedState.UNKNOWN
        if one.is_lost:
            return ObservedState.UNSEEN
        if one.is_unseen:
            # Ray takes a node that does not answer for one that is slow to begin, until it takes it for lost.
            return ObservedState.WAITING if one.plan.attempt % 2 else ObservedState.UNSEEN
        return ObservedState.ALIVE if one.is_alive else ObservedState.GONE

    def stop(self, key: str) -> None:
        self._world.meanwhile()
        one = self.attempts.get(key)
        if one is not None and not one.is_silent and not self.is_away:
            one.is_told = True

    def kill(self, key: str) -> None:
        one = self.attempts.get(key)
        if one is not None and not one.is_unseen:
            one.is_alive = False

    def tidy(self, keys: Iterable[str], before: float) -> None:
        pass

    def close(self) -> None:
        pass


class SomeGpus:
    """GPUs of a host on which others compute too."""

    trouble = ""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def list(self, may_be_old: bool = False) -> Sequence[Gpu]:
        return [Gpu(index, f"GPU-{index}", 1 << 34, 0, (99,) if index in self.held else ()) for index in range(GPUS)]


class Here(Engines):
    """This host and one far engine for every attached target."""

    def __init__(self, local: Compute, far: Compute, reach: Reach) -> None:
        super().__init__(local, reach)
        self.far = far

    def of(self, spec: ClusterSpec | None) -> Compute:
        return self.local if spec is None or spec.engine is None else self.far
