"""The processes of a distributed run on this node: begun, watched, and ended together with those of other nodes."""

import re
import select
import signal
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from runyard.files.processes import signal_group
from runyard.protocol.distributed import Place, Task, tasks_of, wire
from runyard.protocol.meeting import NodeReport, Phase
from runyard.protocol.plan import ExitCause, Report
from runyard.runner.folder import AttemptFolder
from runyard.runner.meeting import NodeMeeting
from runyard.runner.processes import Script

#: Once a worker has ended well, how long the last ones may go on after the latest end, seconds; and the variable of the
#: run's environment that says otherwise.
STRAGGLER_S, STRAGGLER_VARIABLE = 1_800.0, "RUNYARD_STRAGGLER_SECONDS"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

#: From a process's own variables to its command and all of its variables.
Command = Callable[[Dict[str, str]], Tuple[List[str], Dict[str, str]]]
#: Starts a process: its command, its variables, its working folder, its log.
Launcher = Callable[[List[str], Dict[str, str], Path, Path], Script]


class Team:
    """The processes of this node; has the calls of a Script.

    The first that fails ends the others, here and on the other nodes; the end of all workers ends the parameter
    servers, which never end by themselves.
    """

    def __init__(
        self,
        folder: AttemptFolder,
        meeting: Optional[NodeMeeting],
        places: Sequence[Place],
        make: Command,
        launch: Launcher,
    ) -> None:
        """Start them; OSError where the program cannot be started."""
        self._folder = folder
        self._meeting = meeting
        self._running: Dict[int, Tuple[Task, Script]] = {}
        self._workers_left = 0
        self._ending_until: Optional[float] = None
        self._code = 0
        #: The process that failed first of those here.
        self.blamed: Optional[Task] = None
        self.cause = ExitCause.SCRIPT
        #: What the log does not say by itself.
        self.remark = ""
        self._start(places, make, launch)

    def wait(self, timeout_s: float) -> Optional[int]:
        """The exit code of the process that failed first, or 0, once none is left; None after the time."""
        self._sleep(timeout_s)
        self._note_ends()
        self._look_around()
        if self._ending_until is not None and time.monotonic() >= self._ending_until:
            self._kill()
        return None if self._running else self._code

    def terminate(self) -> None:
        """Ask them all to end; how they do says nothing about the run."""
        if self._ending_until is None:
            self._ending_until = time.monotonic() + self._folder.plan.grace_s
            for _, script in self._running.values():
                script.terminate()

    def close(self) -> None:
        """Forget them; whatever is left of them lives on."""
        for _, script in self._running.values():
            script.close()

    def _start(self, places: Sequence[Place], make: Command, launch: Launcher) -> None:
        asked = self._folder.plan.distribution
        assert asked is not None
        everyone = tasks_of(asked, self._folder.plan.node_count)
        for task in self._folder.tasks:
            command, variables = make({**wire(asked, everyone, places, task), "RUNYARD_RANK": str(task.rank)})
            log = self._folder.process_log(task)
            self._running[task.rank] = task, launch(command, variables, self._folder.work, log)
        self._everyone = everyone
        self._patience = Patience(self._folder, sum(one.is_worker for one in everyone))
        self._workers_left = self._workers_of(self._folder.node)
        self._tell(phase=Phase.RUNNING, workers_left=self._workers_left)

    def _sleep(self, timeout_s: float) -> None:
        """Until one of them ends, or for that time."""
        poller = select.poll()
        for _, script in self._running.values():
            poller.register(script.fileno(), select.POLLIN)
        poller.poll(max(0.0, timeout_s * 1000))

    def _note_ends(self) -> None:
        for rank, (task, script) in list(self._running.items()):
            code = script.wait(0)
            if code is None:
                continue
            script.close()
            del self._running[rank]
            if self._ending_until is not None:
                continue
            if code != 0:
                self._blame(task, code)
            elif task.is_worker:
                self._workers_left -= 1
                self._tell(workers_left=self._workers_left)

    def _blame(self, task: Task, code: int) -> None:
        self.blamed, self._code = task, code
        self.terminate()

    def _look_around(self) -> None:
        """End these processes where the others' state says so."""
        if self._ending_until is not None:
            return
        others = [] if self._meeting is None else [one for one in self._meeting.nodes if one.node != self._folder.node]
        left = self._workers_left + sum(one.workers_left for one in others if is_under_way(one))
        left += sum(self._workers_of(one.node) for one in others if not is_under_way(one))
        is_late = self._patience.is_over(left)
        if any(failed(one) for one in others):
            self.cause = ExitCause.PEER
            self.terminate()
        elif left == 0:
            self.terminate()
        elif is_late:
            last = min(task.rank for task, _ in self._running.values() if task.is_worker)
            self.remark = self._patience.remark
            self._blame(self._running[last][0], -signal.SIGKILL)
            self._kill()

    def _workers_of(self, node: int) -> int:
        return sum(one.is_worker for one in self._everyone if one.node == node)

    def _kill(self) -> None:
        for _, script in self._running.values():
            signal_group(script.pid, signal.SIGKILL)

    def _tell(self, **changes: object) -> None:
        if self._meeting is not None:
            self._meeting.tell(**changes)


class Patience:
    """Finds out when the last processes of a run have gone on for too long after the others have ended."""

    def __init__(self, folder: AttemptFolder, count: int) -> None:
        text = folder.plan.variables.get(STRAGGLER_VARIABLE, "")
        is_number = _SECONDS.fullmatch(text) is not None
        self._limit_s = float(text) if is_number else STRAGGLER_S
        if text and not is_number and folder.node == 0:
            folder.note(
                f"{STRAGGLER_VARIABLE} is a number of seconds, as 90 or 1.5, and not {text[:80]!r}; "
                f"the last processes have {STRAGGLER_S:.0f} s after the others."
            )
        self._left = count
        self._last_end: Optional[float] = None

    @property
    def remark(self) -> str:
        """What is said of one that went on for longer."""
        return f"went on for {self._limit_s:.12g} s after the others had ended, and was killed"

    def is_over(self, left: int) -> bool:
        """Have those that are left had their time since the last end?"""
        if left < self._left:
            self._last_end = time.monotonic()
        self._left = left
        return self._last_end is not None and time.monotonic() - self._last_end > self._limit_s


def failed(node: NodeReport) -> bool:
    """Did that node's processes end other than well?"""
    return node.end is not None and (node.end.exit_code != 0 or node.end.cause != ExitCause.SCRIPT)


def is_under_way(node: NodeReport) -> bool:
    """Has that node started its processes?"""
    return node.phase in (Phase.RUNNING, Phase.ENDED, Phase.STORED)


def verdict(nodes: Sequence[NodeReport], own: Report) -> Report:
    """How the run ended: as the node whose processes failed first says, by the server's clock; else as ``own``."""
    bad = [one for one in nodes if failed(one) and one.end is not None and one.end.cause != ExitCause.PEER]
    if not bad:
        return own
    first = min(bad, key=lambda one: (one.ended_at or 0, one.node))
    return first.end or own
