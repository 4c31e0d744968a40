"""Runs on an existing machine over SSH: one at a time, each by a supervisor there that outlives the connection.

This server's own queue orders the runs. A thread speaks with the machine over one connection while there is anything
to say; whoever calls waits for nothing. What is to begin waits here until the machine has it, and says what for.
"""

import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set

from runyard.compute.remote import TOLD_S, WAITS_FOR_ANSWER, Reach, node_program
from runyard.compute.ssh_line import Door, Line, check_words
from runyard.errors import ComputeTargetException, ServiceException
from runyard.files.layout import attempt_folder, runs_folder_name
from runyard.protocol.compute import EngineKind, EngineSpec, facts_of
from runyard.protocol.plan import LaunchPlan, Observation, ObservedState
from runyard.protocol.routes import PREFIX

#: Between two looks while anything is there, seconds; ends come as the runners' own reports.
LOOK_S = 2.0
#: Between two tries to reach a machine that does not answer, seconds.
AGAIN_S = 5.0
#: A connection that nobody needs is kept for this time, seconds.
IDLE_S = 60.0
#: An attempt that is to stop, on a machine that has not answered for this time, is given up, seconds.
GIVEN_UP_S = 120.0

ADDRESS, USERNAME, PORT, FOLDER = "address", "username", "ssh_port", "node_folder"
#: What a machine may be attached with, beside what lets us in there.
SETTINGS = (ADDRESS, USERNAME, PORT, FOLDER)


class SshCompute:
    """One attached machine."""

    #: Nothing is given up because the machine is away: no other one could take its run. What it does not know is gone.
    fence_s = 0.0

    def __init__(self, spec: EngineSpec, reach: Reach) -> None:
        self._spec = spec
        self._reach = reach
        self._shown = "{}@{}".format(spec.settings.get(USERNAME, ""), spec.settings.get(ADDRESS, ""))
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: Optional[threading.Thread] = None
        #: What the machine has not said it has.
        self._orders: Dict[str, _Order] = {}
        self._seen: Dict[str, Observation] = {}
        self._asked: Set[str] = set()
        self._asked_at = 0.0
        #: Those that were to stop before the machine could have got them.
        self._dropped: Set[str] = set()
        #: How each key is to be signaled next.
        self._signals: Dict[str, str] = {}
        #: When each key was told to stop first and last, and when its runner was killed last.
        self._stopped: Dict[str, float] = {}
        self._told: Dict[str, float] = {}
        self._killed: Dict[str, float] = {}
        #: Since when the machine does not answer, and why; None: it does.
        self._away_since: Optional[float] = None
        self._trouble = ""

    def prepare(self) -> None:
        """Nothing makes the first start faster."""

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        program = node_program(self._reach, plan, secret, "", self._spec.settings.get(FOLDER, ""))
        runs = Path(runs_folder_name(self._reach.url()))
        runner = attempt_folder(runs, plan.run_id, plan.attempt) / "runner.json"
        with self._lock:
            self._orders[key] = _Order(program, str(runner))
            self._seen.pop(key, None)
            self._dropped.discard(key)
        self._go()

    def recover(self, key: str) -> bool:
        """Its supervisor has done what can be done there; what is gone is gone."""
        return False

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        now = time.monotonic()
        with self._lock:
            self._asked, self._asked_at = set(keys), now
            for known in (self._seen, self._stopped, self._told, self._killed):
                for key in known.keys() - self._asked:
                    del known[key]
            self._dropped &= self._asked
            found = {key: seen for key in self._asked for seen in [self._observe(key, now)] if seen is not None}
        if self._asked:
            self._begin()
        return found

    def stop(self, key: str) -> None:
        now = time.monotonic()
        with self._lock:
            order = self._orders.pop(key, None)
            if order is not None and not order.is_sent:
                self._dropped.add(key)
                return
            self._stopped.setdefault(key, now)
            if now - self._told.get(key, -TOLD_S) < TOLD_S:
                return
            self._told[key] = now
            self._signals.setdefault(key, "stop")
        self._go()

    def kill(self, key: str) -> None:
        """First its runner, which its supervisor replaces to complete the record; where that changes nothing, all."""
        now = time.monotonic()
        with self._lock:
            if now - self._killed.get(key, -TOLD_S) < TOLD_S:
                return
            self._signals[key] = "end" if key in self._killed else "kill"
            self._killed[key] = now
        self._go()

    def tidy(self, keys: Iterable[str], before: float) -> None:
        """The machine does that itself."""

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()

    def _observe(self, key: str, now: float) -> Optional[Observation]:
        if key in self._dropped:
            return Observation(key, ObservedState.UNKNOWN)
        away_since = self._away_since
        if away_since is None:
            return self._seen.get(key)
        if key in self._orders:
            return Observation(key, ObservedState.WAITING, WAITS_FOR_ANSWER + self._trouble)
        if key in self._stopped and now - max(away_since, self._stopped[key]) > GIVEN_UP_S:
            # Should it live after all, it is ended as soon as the machine answers.
            self._signals[key] = "end"
            return Observation(key, ObservedState.GONE, self._trouble)
        # Nobody has seen it end: no other attempt may begin beside it.
        return Observation(key, ObservedState.ALIVE, self._trouble)

    def _go(self) -> None:
        self._begin()
        self._wake.set()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="ssh", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        line: Optional[Line] = None
        while self._is_needed():
            try:
                line = line or Line(self._door())
                self._speak(line)
                self._away_since, self._trouble = None, ""
                self._wake.wait(LOOK_S)
                self._wake.clear()
            except (ServiceException, OSError, ValueError) as error:
                self._away_since, self._trouble = self._away_since or time.monotonic(), str(error)
                if line is not None:
                    line.close()
                line = None
                self._wait(AGAIN_S)
        if line is not None:
            line.close()

    def _is_needed(self) -> bool:
        with self._lock:
            is_idle = not self._orders and time.monotonic() - self._asked_at > IDLE_S
            if self._is_closed or is_idle:
                self._thread = None
                return False
            return True

    def _wait(self, seconds: float) -> None:
        """As long, whatever is asked for meanwhile: who is away is not asked in a hurry."""
        ends_at = time.monotonic() + seconds
        while not self._is_closed and time.monotonic() < ends_at:
            self._wake.wait(ends_at - time.monotonic())
            self._wake.clear()

    def _door(self) -> Door:
        return door(self._spec, self._reach)

    def _speak(self, line: Line) -> None:
        """Pass signals on first, so that what was given up ends before anything begins; hand over; look."""
        for key in list(self._signals):
            line.ask({"do": "signal", "key": key, "how": self._signals[key]})
            with self._lock:
                self._signals.pop(key, None)
        if self._orders:
            # What goes into a connection that is gone may have arrived, for all that is known.
            line.ask({"do": "look"})
        for key in list(self._orders):
            with self._lock:
                order = self._orders.get(key)
                if order is None:
                    continue
                order.is_sent = True
            reply = line.ask(
                {"do": "start", "key": key, "program": order.program, "runner": order.runner, "keys": [key]}
            )
            with self._lock:
                if self._orders.get(key) is order:
                    del self._orders[key]
            self._learn(reply)
        if self._asked:
            self._learn(line.ask({"do": "look", "keys": sorted(self._asked)}))

    def _learn(self, reply: Mapping[str, Any]) -> None:
        with self._lock:
            for key, seen in reply["seen"].items():
                # What waits here to be begun is not told of by a machine that has not heard of it.
                if key not in self._orders:
                    self._seen[key] = observation(key, seen, self._shown)


class _Order:
    """An attempt that is to begin."""

    def __init__(self, program: str, runner: str) -> None:
        self.program = program
        #: Where its runner says who it is, below the machine's folder.
        self.runner = runner
        #: Has the machine perhaps got it?
        self.is_sent = False


def observation(key: str, seen: Mapping[str, str], shown: str) -> Observation:
    """What a machine's answer says of an attempt."""
    if seen["state"] != ObservedState.GONE:
        return Observation(key, seen["state"])
    if seen["why"] == "restarted":
        return Observation(key, ObservedState.GONE, f"{shown} was restarted.", is_node_lost=True)
    said = "; the last that they said: {}".format(seen["said"].rstrip(".")) if seen["said"] else ""
    return Observation(key, ObservedState.GONE, "Its processes on {} ended{}; see {}.".format(shown, said, seen["log"]))


def check_settings(spec: EngineSpec) -> None:
    """ComputeTargetException for a setting that is none, or that no machine can have."""
    facts = facts_of(EngineKind.SSH)
    for names, allowed in ((spec.settings, SETTINGS), (spec.secrets, facts.secrets)):
        for name in names:
            if name not in allowed:
                raise ComputeTargetException(
                    "A machine over SSH has no setting {!r}; there are: {}, private_key_file, {}.".format(
                        name[:80], ", ".join(SETTINGS), ", ".join(facts.secrets[1:])
                    )
                )
    settings = spec.settings
    wrong = check_words(settings.get(ADDRESS, ""), settings.get(USERNAME, ""), settings.get(PORT, "22"))
    if wrong:
        raise ComputeTargetException(wrong[0])
    if ("private_key" in spec.secrets) == ("password" in spec.secrets):
        raise ComputeTargetException("A machine over SSH is attached with a private_key_file or a password: give one.")


def list_warnings(spec: EngineSpec, reach: Reach) -> List[str]:
    """What keeps runs from working on a machine that lets us in, a sentence each; ComputeTargetException where it does
    not.

    The secrets of ``spec`` are those that its user has given, in clear.
    """
    try:
        line = Line(door(spec, reach, spec.secrets))
    except ServiceException as error:
        raise ComputeTargetException(str(error)) from None
    try:
        problem = line.ask({"do": "reach", "url": reach.url() + PREFIX + "/ping"})["problem"]
    except ServiceException as error:
        raise ComputeTargetException(str(error)) from None
    finally:
        line.close()
    if not problem:
        return []
    return [
        f"{spec.settings[ADDRESS]} does not reach this server at {reach.url()} ({problem}); start the server "
        "with --host and set RUNYARD_PUBLIC_URL to an address that the machine reaches."
    ]


def door(spec: EngineSpec, reach: Reach, clear: Optional[Mapping[str, str]] = None) -> Door:
    """Where that machine is and how it is entered; ServiceException where its secrets cannot be read any more."""
    settings = spec.settings
    secrets = dict(clear) if clear is not None else {}
    if clear is None:
        for name, sealed in spec.secrets.items():
            text = reach.unseal(sealed, spec.place)
            if text is None:
                raise ServiceException(
                    f"The {name} of {settings[ADDRESS]} cannot be read here; attach the machine again."
                )
            secrets[name] = text
    return Door(
        address=settings[ADDRESS],
        port=int(settings.get(PORT, "22")),
        username=settings[USERNAME],
        known_hosts=reach.known_hosts,
        secrets=secrets,
        folder=settings.get(FOLDER, ""),
        mark=reach.mark,
    )
