"""The processes of one revision: a front, and the replicas behind it; started, watched, started anew."""

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from runyard.environments.held import hold_folder
from runyard.files.layout import write_atomically
from runyard.files.processes import ProcessTable
from runyard.protocol.services import (
    SCORING_FILE,
    Autoscale,
    JoinedReplicas,
    Revision,
    ServiceStatistics,
    Wanted,
    first_count,
    is_inline,
    log_line,
)
from runyard.protocol.wire import from_wire
from runyard.scoring.frames import keep_alive
from runyard.serving.children import ended, kill
from runyard.serving.compiler import Compiler
from runyard.serving.front_process import FrontProcess
from runyard.serving.limits import Limits
from runyard.serving.orders import OTHER_VERSION
from runyard.serving.sandbox import front_cell, model_cell, started

#: How long the whole revision waits after its deaths in a row, seconds: after the first, the second, ...; on a cluster:
#: control/service_runs.py.
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: It waits no longer than this where it had the model loaded: some request has ended it, and others wait, seconds.
PAUSE_READY_S = 1.0
#: So many deaths in a row before anything could answer are the revision's failure.
DEATHS_MAX = 3
#: A process that could answer for so long is no repeated failure, seconds.
SETTLED_S = 5.0
#: How long processes may take to end once they are killed, seconds.
END_S = 5.0
#: A front that says nothing for so long has been stopped, or hangs, seconds.
SILENT_S = 60.0
#: How long a model may take to load, a front with a compiled one too, seconds.
LOAD_S = 900.0
#: So many replicas that did not answer are told of, the latest.
HUNG_MAX = 20


class Group:
    """One revision's processes."""

    def __init__(
        self, folder: Path, revision: Revision, wanted: Wanted, listener: socket.socket, log: int,
        spare: Optional[FrontProcess] = None,
    ) -> None:  # fmt: skip
        """``wanted`` says who may ask; ``spare`` is a front that was started already, for whatever came."""
        self.revision = revision
        #: Where replicas come that are runs of a cluster; None: they are processes of this host.
        self._joins = _open_door(listener) if revision.deployment.target else None
        self._hung: List[str] = []
        #: How many replicas it gives up while the next revision needs a place.
        self._room = 0
        self._folder = folder
        self._listener = listener
        self._log = log
        self._front: Optional[FrontProcess] = None
        self._spare = spare
        self._wanted = wanted
        self._replicas: Dict[int, _Replica] = {}
        self._next_number = 1
        self._deaths, self._not_before = 0, 0.0
        self._may_accept = False
        self._busy = 0
        self._wanted_count = first_count(revision.deployment)
        self._scaled_at, self._idle_looks = 0.0, 0
        self._memory_bytes, self._cpu_cores = 0, 0.0
        self._measured_at, self._cpu_s = 0.0, 0.0
        self.is_leaving = False
        #: Was Runyard upgraded since its supervisor began? Its front is the new release's.
        self.is_outdated = False
        self._limits = Limits(folder, revision.deployment, self.say)
        self._compiler = Compiler(folder, revision, log, self._limits)
        self._held = hold_folder(revision.environment) if revision.environment else None
        #: Why it cannot be; '' while it may.
        self.failure = ""
        self.was_ready = False
        self.statistics = ServiceStatistics()

    @property
    def is_inline(self) -> bool:
        """Does the front itself hold the model? Only the sole replica: others are for other cores."""
        return self._compiler.is_compiled and is_inline(self.revision.deployment)

    @property
    def _is_front_ready(self) -> bool:
        return self._front is not None and self._front.is_ready

    @property
    def is_ready(self) -> bool:
        """Can it answer?"""
        return self._is_front_ready and (self.is_inline or self.ready_count > 0)

    @property
    def ready_count(self) -> int:
        """Replicas that have the model loaded."""
        if self.is_inline:
            return int(self._is_front_ready)
        return sum(one.is_ready for one in self._replicas.values())

    @property
    def is_gone(self) -> bool:
        """Has the last process of it ended?"""
        return self._front is None and not self._replicas and not self._compiler.is_running

    @property
    def joined(self) -> Optional[JoinedReplicas]:
        """Its replicas where they are runs of a cluster."""
        if self._joins is None:
            return None
        found = self._replicas.values()
        staying = [one for one in found if not one.is_dismissed]
        return JoinedReplicas(
            revision=self.revision.number,
            port=self._joins.getsockname()[1],
            wanted=self._count_now,
            joined=tuple(one.run_id for one in staying),
            ready=tuple(one.run_id for one in staying if one.is_ready),
            dismissed=tuple(one.run_id for one in found if one.is_dismissed),
            hung=tuple(self._hung),
            is_leaving=self.is_leaving,
        )

    @property
    def _count_now(self) -> int:
        """How many replicas there should be: one at least, whoever needs room."""
        return max(1, self._wanted_count - self._room)

    @property
    def measured(self) -> ServiceStatistics:
        """What the front counts, and what all processes take."""
        return replace(self.statistics, memory_bytes=self._memory_bytes, cpu_cores_max=round(self._cpu_cores, 3))

    def close(self) -> None:
        """Let go of what it held, once it is gone."""
        self._limits.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None
        if self._joins is not None:
            self._joins.close()

    def sockets(self) -> List[socket.socket]:
        """What to wait on."""
        return [self._front.line] if self._front is not None and self._front.line is not None else []

    def set_access(self, wanted: Wanted) -> None:
        """Who may ask from now on."""
        self._wanted = wanted
        if self._front is not None and self._front.is_ready:
            self._certify(self._front)
            self._front.admit(wanted)

    def set_room(self, room: int) -> None:
        """Give up so many replicas of a cluster."""
        self._room = room

    def accept(self) -> None:
        """Take requests from now on."""
        self._may_accept = True
        self._order_to_accept()

    def leave(self) -> None:
        """Take no more, answer what is there, end."""
        self.is_leaving = True
        self._order({"do": "leave"})

    def end(self) -> None:
        """End at once."""
        self.is_leaving = True
        self._compiler.end()
        for process in self._processes():
            kill(process)

    def wait(self) -> None:
        """Until what was told to end has ended."""
        for process in self._processes():
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)

    def _processes(self) -> "List[subprocess.Popen[bytes]]":
        fronts = [one.process for one in (self._front, self._spare) if one is not None]
        return [*fronts, *(one.process for one in self._replicas.values() if one.process is not None)]

    # Once a moment: what has happened, and what is missing?

    def step(self, now: float) -> None:
        """Reap what has ended, start what is missing."""
        self._reap(now)
        if self.is_leaving or self.failure or now < self._not_before or not self._compiler.step(now, self.say):
            return
        try:
            self._start_missing(now)
        except OSError as error:
            # A full disk, or no process to be had: what runs goes on.
            self._not_before = now + 1.0
            self.say(f"no process can be started at the moment: {error}")

    def _start_missing(self, now: float) -> None:
        if self._front is None:
            self._start_front()
        if not self.is_inline and self._is_front_ready:
            self._scale(now)
            if self._joins is not None:
                # What is missing is control's to start.
                while self._staying_count > self._count_now:
                    self._dismiss()
            else:
                while self._staying_count < self._wanted_count:
                    self._start_replica(now)

    @property
    def _staying_count(self) -> int:
        return sum(not one.is_dismissed for one in self._replicas.values())

    def look_closer(self, now: float) -> None:
        """From time to time: does the front hang, does a replica take too much memory, or too long to load?"""
        # Read first: this process may have been stopped itself.
        self.read()
        most_s = SILENT_S if self._is_front_ready else LOAD_S
        if self._front is not None and now - self._front.heard_at > most_s:
            self.say(f"the front has said nothing for {most_s:.0f} s")
            kill(self._front.process)
        elif self._front is not None and self._front.has_certificate:
            self._certify(self._front)
        for one in list(self._replicas.values()):
            if not one.is_ready and now - one.began > LOAD_S:
                self._fail_or_log(f"The model was not loaded within {LOAD_S:.0f} s.")
                self._end_replica(one)
        pids = {one.number: one.process.pid for one in self._replicas.values() if one.process is not None}
        fronts = [] if self._front is None else [self._front.process.pid]
        table = ProcessTable()
        used = [table.usage(pid) for pid in [*pids.values(), *fronts]]
        self._note_usage(now, used)
        limit_gb = self.revision.deployment.memory_gb_limit
        for number, (_, memory) in zip(pids, used, strict=False):
            if limit_gb and memory > limit_gb * 1e9:
                self.say(f"replica {number} takes more than {limit_gb:g} GB of memory and is ended")
                self._end_replica(self._replicas[number])

    def _end_replica(self, one: "_Replica") -> None:
        """End it at once; another takes its place."""
        if one.process is not None:
            kill(one.process)
        else:
            self.say(f"replica {one.number}, the run {one.run_id}, does not answer; another takes its place")
            self._hung = [*self._hung, one.run_id][-HUNG_MAX:]
            self._order({"do": "drop", "replica": one.number})

    def _note_usage(self, now: float, used: List[Tuple[float, int]]) -> None:
        """The memory of all processes, and the most cores that they used between two looks."""
        self._memory_bytes = sum(memory for _, memory in used)
        cpu_s = sum(seconds for seconds, _ in used)
        if self._measured_at:
            self._cpu_cores = max(self._cpu_cores, (cpu_s - self._cpu_s) / max(0.1, now - self._measured_at))
        self._measured_at, self._cpu_s = now, cpu_s

    def say(self, sentence: str) -> None:
        """A line in the service's log."""
        with suppress(OSError):
            os.write(self._log, log_line(sentence))

    def _reap(self, now: float) -> None:
        front = self._front
        if front is not None and front.process.poll() is not None:
            self._front = None
            front.close()
            self.is_outdated = front.process.returncode == OTHER_VERSION
            # Replicas talk to that front alone; those of a cluster come to the next one.
            for one in self._replicas.values():
                if one.process is not None:
                    kill(one.process)
            self._replicas = {number: one for number, one in self._replicas.items() if one.process is not None}
            if self.is_outdated:
                self._not_before = now + 1.0
            elif not self.is_leaving:
                self._deaths = 0 if now - front.began > SETTLED_S else self._deaths
                self._died(now, f"the front ended ({ended(front.process.returncode)})")
        for number, one in list(self._replicas.items()):
            if one.process is not None and one.process.poll() is not None:
                del self._replicas[number]
                why = self._limits.exceeded(number) or f"ended ({ended(one.process.returncode)})"
                self._limits.drop(number)
                if not self.is_leaving and self._front is not None and not one.is_dismissed:
                    self._deaths = 0 if one.is_ready and now - one.ready_at > SETTLED_S else self._deaths
                    most_s = PAUSE_READY_S if one.is_ready else PAUSES_S[-1]
                    self._died(now, f"replica {number} {why}", most_s)

    def _died(self, now: float, sentence: str, most_s: float = PAUSES_S[-1]) -> None:
        self._deaths += 1
        if not self.was_ready and self._deaths >= DEATHS_MAX:
            self.failure = self.failure or f"The service does not start: {sentence}; see its log."
        if self.failure:
            self.say(sentence)
            return
        pause_s = min(most_s, PAUSES_S[min(self._deaths, len(PAUSES_S)) - 1])
        self._not_before = now + pause_s
        self.say(f"{sentence}; " + ("it is started anew" if not pause_s else f"it is started anew in {pause_s:g} s"))

    def _start_front(self) -> None:
        cell = front_cell(self.revision.isolation, self.revision.hidden)
        front, self._spare = self._spare, None
        if front is not None and not front.is_fit_for(cell):
            front.end()
            front = None
        front = front or FrontProcess(cell, self._log)
        compiled = self._compiler.compiled if self.is_inline else None
        front.serve(self._folder, self._log, self._listener, self._joins, compiled)
        self._front = front

    def _write_plan(self) -> None:
        """What replicas are told: a file, written once, since a process that is started anew needs no space for it."""
        plan, text = self._folder / SCORING_FILE, json.dumps(self._compiler.scoring).encode()
        if not plan.exists() or plan.read_bytes() != text:
            write_atomically(plan, text, mode=0o600)

    def _start_replica(self, now: float) -> None:
        self._write_plan()
        number, self._next_number = self._next_number, self._next_number + 1
        ours, theirs = socket.socketpair()
        revision = self.revision
        command = [
            revision.interpreter,
            "-u",
            "-m",
            "runyard.scoring",
            str(theirs.fileno()),
            str(self._folder / SCORING_FILE),
        ]
        places = [str(self._folder), *self._compiler.places]
        process = started(model_cell(revision), command, dict(revision.variables), self._log, (theirs.fileno(),),
                          places, enter=self._limits.enter(number))  # fmt: skip
        theirs.close()
        self._replicas[number] = _Replica(number, process, now)
        self._order({"do": "replica", "replica": number}, [ours.fileno()])
        ours.close()

    def _order(self, order: Dict[str, Any], descriptors: Any = ()) -> None:
        if self._front is not None:
            self._front.order(order, descriptors)

    # What the front tells.

    def read(self) -> None:
        """All that the front has said."""
        front = self._front
        if front is None:
            return
        try:
            for event in front.events():
                self._heard(front, event)
        except (ValueError, KeyError, TypeError) as error:
            self.say(f"the front does not speak as it should ({error!r})")
            front.end()

    def _heard(self, front: FrontProcess, event: Dict[str, Any]) -> None:
        kind, number = event["event"], event.get("replica", 0)
        replica = self._replicas.get(number)
        if kind == "front_ready":
            self._certify(front)
            if self._wanted.certificate and not front.has_certificate:
                kill(front.process)
                return
            front.is_ready = True
            self.was_ready = self.was_ready or self.is_inline
            front.admit(self._wanted)
            self._order_to_accept()
        elif kind == "replica_joined":
            self._replicas[number] = _Replica(number, None, time.monotonic(), str(event["run"]))
            self.say(f"the run {event['run']} has come from {event['place']} as replica {number}")
        elif kind == "certificate_refused":
            self.say(f"the certificate cannot be used ({event['error']}); the one before it goes on")
        elif kind == "stranger":
            self.say(f"a connection where replicas come was refused: {event['why']}")
        elif kind == "replica_ready" and replica is not None:
            replica.is_ready = self.was_ready = True
            replica.ready_at = time.monotonic()
            took = event.get("took_s")
            self.say(f"replica {number} has the model loaded" + (f" in {took:.1f} s" if took else ""))
            self._order_to_accept()
        elif kind == "replica_failed" or kind == "front_failed":
            self._fail_or_log(str(event.get("error")), str(event.get("traceback") or ""))
        elif kind == "replica_gone" and replica is not None and replica.process is None:
            del self._replicas[number]
            if not replica.is_dismissed and not self.is_leaving:
                self.say(f"replica {number} is gone, which was the run {replica.run_id}")
        elif kind in ("replica_hangs", "replica_gone") and replica is not None:
            self._end_replica(replica)
        elif kind == "statistics":
            self.statistics = from_wire(ServiceStatistics, event["seen"])
            self._busy = int(event["busy"])

    def _certify(self, front: FrontProcess) -> None:
        """Give it the certificate that is there now; without a first one it cannot be a front."""
        try:
            front.certify(self._wanted.certificate, self._wanted.certificate_key)
        except OSError as error:
            if front.has_certificate:
                self.say(f"the certificate cannot be read ({error}); the one before it goes on")
            else:
                self._fail_or_log(f"The certificate cannot be read: {error}")

    def _order_to_accept(self) -> None:
        """A front that is started anew takes nobody before it can answer: connections wait in the socket."""
        if self.is_ready and self._may_accept:
            self._order({"do": "accept"})

    def _fail_or_log(self, error: str, traceback: str = "") -> None:
        """A revision that never worked has failed; one that has is started anew."""
        if not self.was_ready:
            self.failure = f"{error}\n{traceback}".strip()
        self.say(error)

    # How many.

    def _scale(self, now: float) -> None:
        """By requests that wait or are worked at: as many replicas as keep each at its target."""
        scale = self.revision.deployment.autoscale
        if scale is None or now - self._scaled_at < scale.refresh_s or not self.was_ready:
            return
        self._scaled_at = now
        count = wanted_replicas(scale, self.revision.deployment.concurrent_requests, self._busy)
        if count > self._wanted_count:
            self.say(f"{self._busy} requests are under way: {count} replicas")
            self._wanted_count = count
        elif count < self._wanted_count:
            self._idle_looks += 1
            if self._idle_looks >= IDLE_LOOKS:
                self._idle_looks = 0
                self._wanted_count -= 1
                if self._joins is None:
                    self._dismiss()
            return
        self._idle_looks = 0

    def _dismiss(self) -> None:
        """One replica fewer: the newest, once it has answered what it works at."""
        newest = max((number for number, one in self._replicas.items() if not one.is_dismissed), default=0)
        if newest:
            self._replicas[newest].is_dismissed = True
            self.say(f"replica {newest} is not needed any more")
            self._order({"do": "dismiss", "replica": newest})


#: So many looks in a row at which fewer would do, before one goes.
IDLE_LOOKS = 30


def wanted_replicas(scale: Autoscale, concurrent: int, busy: int) -> int:
    """Replicas that keep each at the target share of its concurrent requests."""
    room = max(0.01, concurrent * scale.target_utilization / 100)
    return max(scale.min_replicas, min(scale.max_replicas, -int(-busy // room)))


class _Replica:
    """One process with the model."""

    def __init__(
        self, number: int, process: "Optional[subprocess.Popen[bytes]]", began: float, run_id: str = ""
    ) -> None:
        self.number, self.process, self.began = number, process, began
        #: Of one that is a run of a cluster, and has no process here.
        self.run_id = run_id
        self.is_ready = self.is_dismissed = False
        self.ready_at = began


def _open_door(listener: socket.socket) -> socket.socket:
    """Where replicas of a cluster come: at the service's own address, on a port of its own."""
    door = socket.socket(listener.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    keep_alive(door)
    door.bind((listener.getsockname()[0], 0))
    door.listen(128)
    return door
