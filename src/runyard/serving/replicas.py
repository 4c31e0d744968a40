"""The processes that hold a model, as a front sees them: who is free, who waits, which requests go in together."""

import asyncio
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence

import numpy

from runyard.protocol.scoring import ModelFacts
from runyard.protocol.services import Deployment
from runyard.scoring import arrays, frames

Arrays = Dict[str, Any]
#: A batch is kept so small that it takes no longer than this, as far as earlier ones tell, seconds.
BATCH_S = 0.05
#: Longest answer of a process, bytes: one that says more is let go, before it fills this process's memory.
ANSWER_MAX = 512 << 20
#: Most of an error and its traceback that go on to the supervisor, characters.
ERROR_MAX, TRACEBACK_MAX = 2_000, 15_000

_LACKING = "This service has no replica at the moment: its cluster has given it no place. Try again."


class ScoringError(Exception):
    """Why a request has no answer: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Job:
    """One request for the model; ``done`` is called once, with its outputs or an error."""

    __slots__ = ("body", "done", "header", "inputs", "rows", "signature")

    def __init__(
        self, signature: str, inputs: Arrays, rows: int, done: Callable[[Any, Optional[ScoringError]], None],
        header: Optional[Dict[str, Any]] = None, body: bytes = b"",
    ) -> None:  # fmt: skip
        self.signature, self.inputs, self.rows, self.done = signature, inputs, rows, done
        #: For a script: the request itself.
        self.header, self.body = header, body

    def goes_with(self, other: "Job") -> bool:
        """May both be one batch: the same signature, and rows of the same shape and type?"""
        if self.header is not None or other.header is not None or self.signature != other.signature or not other.rows:
            return False
        for name, value in self.inputs.items():
            found = other.inputs.get(name)
            if found is None or found.dtype != value.dtype or found.shape[1:] != value.shape[1:]:
                return False
        return len(self.inputs) == len(other.inputs)


class Replica(asyncio.Protocol):
    """One process with the model, at the other end of a socket. It works at one batch at a time."""

    def __init__(self, number: int, pool: "Pool", is_elsewhere: bool = False) -> None:
        self.number = number
        #: A run of a cluster, which is told to end: nobody here ends its process.
        self._is_elsewhere = is_elsewhere
        self.facts: Optional[ModelFacts] = None
        self.jobs: List[Job] = []
        self._pool = pool
        self._unpacker = frames.Unpacker()
        self._transport: Any = None
        self._timer: Any = None
        self._began = 0.0
        self._id = 0
        #: Is it to go once it has answered what it works at?
        self.is_dismissed = False
        #: Bytes since the last whole message.
        self._size = 0

    @property
    def is_free(self) -> bool:
        """Can it take a batch?"""
        return self.facts is not None and not self.jobs and self._transport is not None and not self.is_dismissed

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 30)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._transport = None
        self._stop_timer()
        jobs, self.jobs = self.jobs, []
        self._pool.lost(self, jobs)

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        try:
            if self._size > ANSWER_MAX:
                raise ValueError(f"an answer of more than {ANSWER_MAX} bytes")
            for header, body in self._unpacker.feed(data):
                self._size = 0
                self._received(header, body)
        except Exception as error:  # noqa: BLE001 - not trusted: a model may have been made to say anything
            self._pool.said(self, {"failed": f"The process does not speak as it should: {error}", "traceback": ""})
            self.abort()

    def begin(self, jobs: List[Job], timeout_s: float) -> None:
        """Send a batch."""
        self.jobs = jobs
        self._id += 1
        self._began = time.monotonic()
        first = jobs[0]
        if first.header is not None:
            pieces = frames.encode({**first.header, "id": self._id, "call": "run"}, [first.body])
        else:
            described, buffers = arrays.pack(joined(jobs))
            pieces = frames.encode(
                {"id": self._id, "call": "predict", "signature": first.signature, "tensors": described}, buffers
            )
        self._transport.writelines(pieces)
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._hangs, timeout_s)

    def abort(self) -> None:
        """Let go of the process."""
        if self._transport is not None:
            self._transport.abort()

    def dismiss(self) -> None:
        """Let go of it once it has answered what it works at."""
        self.is_dismissed = True
        if self.jobs or self._transport is None:
            return
        if self._is_elsewhere:
            self._transport.writelines(frames.encode({"call": "leave"}))
            self._transport.close()
        else:
            self._transport.abort()

    def _received(self, header: Dict[str, Any], body: memoryview) -> None:
        if "id" not in header:
            self._pool.said(self, header)
            return
        if header["id"] != self._id or not self.jobs:
            raise ValueError("an answer to no question")
        answer: Any = None
        if "status" in header:
            answer = (int(header["status"]), {str(k): str(v) for k, v in dict(header["headers"]).items()}, bytes(body))
            if self.jobs[0].header is None:
                raise ValueError("a script's answer for a model")
        elif "error" not in header:
            answer = arrays.unpack(header["tensors"], body)
        self._stop_timer()
        jobs, self.jobs = self.jobs, []
        took_s = time.monotonic() - self._began
        if "error" in header:
            self._pool.failed(jobs, ScoringError(400, "The model refused the input: " + str(header["error"])))
        elif "status" in header:
            jobs[0].done(answer, None)
            self._pool.worked(0, took_s)
        else:
            self._pool.worked(sum(job.rows for job in jobs), took_s)
            self._pool.divide(jobs, answer)
        self._pool.give_work()
        if self.is_dismissed:
            self.dismiss()

    def _hangs(self, timeout_s: float) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.done(
                None, ScoringError(504, f"The model has not answered for {timeout_s:g} s; its process is started anew.")
            )
        self._pool.hangs(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Pool:
    """The replicas of a revision, and the requests that wait for one."""

    def __init__(self, deployment: Deployment, tell: Callable[[Dict[str, Any]], None]) -> None:
        self._deployment = deployment
        self._tell = tell
        self._replicas: Dict[int, Replica] = {}
        self._waiting: Deque[Job] = deque()
        #: Seconds a row, as recent batches had it; 0: not known yet.
        self._row_s = 0.0
        #: Signatures whose outputs are not one row for each row: their requests go by themselves.
        self._single: Dict[str, bool] = {}
        #: Since when no replica has the model loaded; None: one has, or they come back by themselves.
        self._lacking_since: Optional[float] = None
        #: What the model says of itself; None before a first replica is ready. Stays while none is: requests wait.
        self.facts: Optional[ModelFacts] = None

    @property
    def ready_count(self) -> int:
        """Replicas that can work."""
        return sum(one.facts is not None for one in self._replicas.values())

    @property
    def busy_count(self) -> int:
        """Requests that wait or are worked at."""
        return len(self._waiting) + sum(len(one.jobs) for one in self._replicas.values())

    def add(self, number: int, is_elsewhere: bool = False) -> Replica:
        """A process that was started; it works once it has said that it is ready."""
        replica = self._replicas[number] = Replica(number, self, is_elsewhere)
        return replica

    def dismiss(self, number: int) -> None:
        """Let one go, once it has answered."""
        replica = self._replicas.get(number)
        if replica is not None:
            replica.dismiss()

    def dismiss_all(self) -> None:
        """Let every one go, once it has answered."""
        for number in list(self._replicas):
            self.dismiss(number)

    def drop(self, number: int) -> None:
        """Let one go at once."""
        replica = self._replicas.get(number)
        if replica is not None:
            replica.abort()

    def look(self, now: float) -> None:
        """Nobody waits for a replica for longer than an answer may take, where replicas are a cluster's to give."""
        if not self._deployment.target or self.ready_count:
            self._lacking_since = None
        elif self._lacking_since is None:
            self._lacking_since = now
        if self.is_lacking(now):
            for job in list(self._waiting):
                job.done(None, ScoringError(503, _LACKING))
            self._waiting.clear()

    def is_lacking(self, now: float) -> bool:
        """Has there been no replica for so long that nobody should wait for one?"""
        return self._lacking_since is not None and now - self._lacking_since > self._deployment.timeout_s

    def submit(self, job: Job) -> None:
        """Have a request worked at, in its turn; ScoringError where too many wait."""
        deployment = self._deployment
        if len(self._waiting) >= deployment.queued_requests * max(1, len(self._replicas)):
            raise ScoringError(503, "Too many requests wait for this service; try again.")
        if self.is_lacking(time.monotonic()):
            raise ScoringError(503, _LACKING)
        self._waiting.append(job)
        self.give_work()
        if deployment.wait_s is not None and job in self._waiting:
            asyncio.get_running_loop().call_later(deployment.wait_s, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        """A request has waited for as long as it may."""
        if job in self._waiting:
            self._waiting.remove(job)
            wait_ms = 1000 * (self._deployment.wait_s or 0)
            job.done(None, ScoringError(503, f"No replica was free within {wait_ms:g} ms (max_request_wait_time)."))

    def give_work(self) -> None:
        """Give what waits to whoever is free."""
        for replica in self._replicas.values():
            if not self._waiting:
                return
            if replica.is_free:
                replica.begin(self._batch(), self._deployment.timeout_s)

    def _batch(self) -> List[Job]:
        """The first that waits, and those behind it that go with it."""
        first = self._waiting.popleft()
        most = self._deployment.batch_rows
        if self._row_s:
            most = min(most, max(1, int(BATCH_S / self._row_s)))
        taken, rows = [first], first.rows
        if not first.rows or self._single.get(first.signature):
            return taken
        while self._waiting and first.goes_with(self._waiting[0]) and rows + self._waiting[0].rows <= most:
            rows += self._waiting[0].rows
            taken.append(self._waiting.popleft())
        return taken

    def worked(self, rows: int, took_s: float) -> None:
        """Learn from a batch how long a row takes."""
        if rows:
            self._row_s = took_s / rows if not self._row_s else 0.8 * self._row_s + 0.2 * took_s / rows

    def divide(self, jobs: List[Job], outputs: Arrays) -> None:
        """Give each request its own rows of the outputs."""
        if len(jobs) == 1:
            jobs[0].done(outputs, None)
            return
        rows = sum(job.rows for job in jobs)
        if any(not value.shape or value.shape[0] != rows for value in outputs.values()):
            # This model's outputs do not go by rows: ask again, one request after the other, from now on.
            self._single[jobs[0].signature] = True
            self._waiting.extendleft(reversed(jobs))
            return
        at = 0
        for job in jobs:
            job.done({name: value[at : at + job.rows] for name, value in outputs.items()}, None)
            at += job.rows

    def failed(self, jobs: List[Job], error: ScoringError) -> None:
        """One request of a batch may have spoilt it for the others: those are asked again by themselves."""
        if len(jobs) == 1:
            jobs[0].done(None, error)
            return
        for job in reversed(jobs):
            # No header, yet by itself: rows of 0 goes with nobody.
            self._waiting.appendleft(Job(job.signature, job.inputs, 0, job.done))

    def said(self, replica: Replica, header: Dict[str, Any]) -> None:
        """A process tells that it is ready, or why not."""
        if "ready" in header:
            from runyard.protocol.wire import from_wire

            self.facts = replica.facts = from_wire(ModelFacts, header["ready"])
            self._lacking_since = None
            took_s = float(header.get("took_s") or 0)
            self._tell({"event": "replica_ready", "replica": replica.number, "took_s": took_s})
            self.give_work()
        else:
            said = {
                "error": str(header.get("failed"))[:ERROR_MAX],
                "traceback": str(header.get("traceback"))[-TRACEBACK_MAX:],
            }
            self._tell({"event": "replica_failed", "replica": replica.number, **said})

    def lost(self, replica: Replica, jobs: Sequence[Job]) -> None:
        """A process has ended; what it worked at by itself has failed, and nothing else."""
        self._replicas.pop(replica.number, None)
        error = ScoringError(502, "The model's process ended while it worked at this request; see the log.")
        if jobs:
            self.failed(list(jobs), error)
        self._tell({"event": "replica_gone", "replica": replica.number})
        self.give_work()

    def hangs(self, replica: Replica) -> None:
        """A process does not answer: nobody waits for it any more."""
        self._tell({"event": "replica_hangs", "replica": replica.number})
        replica.abort()


def joined(jobs: List[Job]) -> Arrays:
    """The inputs of several requests as one."""
    if len(jobs) == 1:
        return jobs[0].inputs
    return {name: numpy.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}


def rows_of(inputs: Arrays) -> int:
    """How many rows they have, each the same; 0 where they have no rows in common."""
    counts = {value.shape[0] if value.shape else 0 for value in inputs.values()}
    return counts.pop() if len(counts) == 1 else 0
