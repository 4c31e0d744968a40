"""How the runner of one node hears of the others: a thread that says how this one is, and waits for news.

Everything that is said is on disk first, so that a runner in this one's place goes on where it stopped.
"""

import threading
import time
from dataclasses import replace
from typing import Any, Dict, List, Optional

from runyard.client.http import Server
from runyard.errors import RunyardError
from runyard.files.layout import write_atomically
from runyard.protocol.meeting import PHASES, Meeting, NodeReport, Phase
from runyard.protocol.plan import Report, ReportKind
from runyard.protocol.wire import dumps, loads
from runyard.runner.fence import clock
from runyard.runner.folder import AttemptFolder
from runyard.runner.report import STALE, Superseded

#: How long one request waits for news, and how long until the next after a failed one, seconds.
WAIT_S, RETRY_S = 8.0, 0.5


class NodeMeeting:
    """The nodes of this attempt, as this one knows them."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._path = folder.path / "node.json"
        self._lock = threading.Condition()
        self._own = self._read()
        #: By number, without this one.
        self._others: Dict[int, NodeReport] = {}
        self._revision = 0
        #: The newest of this node's own reports that the server has.
        self._told = 0
        self._over: Optional[str] = None
        self._is_closed = False
        self.cancel_requested = False
        #: As a Reporter's.
        self.heard_at = clock()
        threading.Thread(target=self._listen, name="meeting", daemon=True).start()

    @property
    def own(self) -> NodeReport:
        """This node."""
        return self._own

    @property
    def nodes(self) -> List[NodeReport]:
        """Every node that has been heard of, by number. Superseded where this attempt is over."""
        if self._over is not None:
            raise Superseded(self._over)
        found = {**self._others, self._own.node: self._own}
        return [found[number] for number in sorted(found)]

    def is_at(self, phase: str, numbers: Optional[range] = None) -> bool:
        """Are all nodes, or those of these numbers, in that phase or past it?"""
        least = PHASES.index(phase)
        wanted = range(self._folder.plan.node_count) if numbers is None else numbers
        known = {one.node: PHASES.index(one.phase) for one in self.nodes}
        return all(known.get(number, -1) >= least for number in wanted)

    @property
    def is_told(self) -> bool:
        """Has the server all that this node has said?"""
        return self._told >= self._own.revision

    def tell(self, **changes: Any) -> None:
        """Say what has changed of this node; it is brought to the server beside this."""
        with self._lock:
            self._own = replace(self._own, revision=self._own.revision + 1, **changes)
            write_atomically(self._path, dumps(self._own).encode(), 0o600)
        self.try_send()

    def try_send(self) -> bool:
        """Bring what is new to the server; False where that is away, and it is tried again beside this."""
        try:
            self._meet(0)
        except RunyardError as error:
            self._folder.say(f"not met yet: {error}")
            return False
        return True

    def send(self) -> None:
        """As ``try_send``, but raises ServiceException where the server is away, Superseded if the attempt is over."""
        self._meet(0)

    def wait(self, timeout_s: float) -> None:
        """Return as soon as there is news of another node, or after the time."""
        with self._lock:
            self._lock.wait(timeout_s)

    def close(self) -> None:
        """Hear no more."""
        self._is_closed = True

    def _listen(self) -> None:
        while not self._is_closed and self._over is None:
            try:
                self._meet(WAIT_S)
            except (RunyardError, Superseded) as error:
                self._folder.say(f"the other nodes cannot be heard of now: {error}")
                time.sleep(RETRY_S)

    def _meet(self, wait_s: float) -> None:
        plan, own = self._folder.plan, self._own
        query = {"after": self._revision, "wait_s": int(wait_s)}
        sent_at = clock()
        try:
            found: Meeting = self._server.call(
                "meet", own, query, 60.0 + wait_s, workspace=plan.workspace, run_id=plan.run_id
            )
        except STALE as error:
            self._over = str(error)
            with self._lock:
                self._lock.notify_all()
            raise Superseded(str(error)) from None
        # An answer may have been on its way for long; the server itself holds it back for no longer than that.
        self.heard_at = min(clock(), sent_at + wait_s)
        with self._lock:
            self._told = max(self._told, own.revision)
            if found.revision >= self._revision:
                self._revision = found.revision
                self._others = {one.node: one for one in found.nodes if one.node != own.node}
                ours = next((one for one in found.nodes if one.node == own.node), own)
                if ours.revision > self._own.revision:
                    # A runner before this one said more than it left on disk: go on from there, never back.
                    later = max(ours, self._own, key=lambda one: PHASES.index(one.phase))
                    self._own = replace(self._own, revision=ours.revision + 1, phase=later.phase, end=later.end)
                if ours.ended_at is not None and self._own.ended_at is None:
                    self._own = replace(self._own, ended_at=ours.ended_at)
            self.cancel_requested = found.cancel_requested
            self._lock.notify_all()

    def _read(self) -> NodeReport:
        try:
            return loads(NodeReport, self._path.read_text())
        except (OSError, RunyardError):
            return NodeReport(self._folder.plan.attempt, self._folder.node, 1)


class NodeReporter:
    """Stands where the first node's Reporter stands: what another node has to say, it says to the meeting."""

    def __init__(self, folder: AttemptFolder, meeting: NodeMeeting) -> None:
        self._folder = folder
        self._meeting = meeting

    @property
    def cancel_requested(self) -> bool:
        """The user wants the run to end."""
        return self._meeting.cancel_requested

    @property
    def heard_at(self) -> float:
        """As a Reporter's."""
        return self._meeting.heard_at

    def find(self, kind: str) -> Optional[Report]:
        """What was said of that kind already (by a runner that is gone)."""
        if kind == ReportKind.EXITED:
            return self._meeting.own.end
        is_stored = kind == ReportKind.STORED and self._meeting.own.phase == Phase.STORED
        return Report(self._folder.plan.attempt, 1, kind, self._meeting.own.failure) if is_stored else None

    def add(self, kind: str, message: str = "", **details: Any) -> None:
        """Say it; how far the preparation is, is said by the first node alone."""
        if kind == ReportKind.EXITED:
            self._meeting.tell(
                phase=Phase.ENDED, end=Report(self._folder.plan.attempt, 1, kind, message, **details), workers_left=0
            )
        elif kind == ReportKind.STORED:
            self._meeting.tell(phase=Phase.STORED, failure=message)

    def replace_last(self, message: str, error_code: str) -> None:
        """Nothing of the meeting's is refused but for the end of the attempt."""

    def send(self) -> None:
        """Bring what is new to the server; ServiceException where that is away."""
        self._meeting.send()

    def try_send(self) -> bool:
        """As ``send``; False where the server is away."""
        return self._meeting.try_send()
