"""One attempt from its folder to its last report: prepare, run, supervise, finish. Also: python -m runyard.runner."""

import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from runyard.client.http import Server, file_resolver
from runyard.environments.kit import compile_kit, find_kit
from runyard.environments.realise import Realised, hold, is_realised, realise
from runyard.errors import AzureMLException, RunyardError
from runyard.files.tails import tail_of
from runyard.protocol.distributed import DistributionKind, Place, ports_wanted
from runyard.protocol.environments import StoredFile
from runyard.protocol.meeting import Phase
from runyard.protocol.plan import ExitCause, Report, ReportKind
from runyard.runner.destinations import Destinations
from runyard.runner.fence import Fence
from runyard.runner.folder import AttemptFolder, claim, leave, remove, remove_tree
from runyard.runner.limits import Limits
from runyard.runner.meeting import NodeMeeting, NodeReporter
from runyard.runner.mount import unmount_all
from runyard.runner.ports import Ports
from runyard.runner.processes import Script, adopt_orphans, are_gone, describe_signal, end_all
from runyard.runner.record import HEARTBEAT_S, Record
from runyard.runner.report import Reporter, Superseded, code_of, insist
from runyard.runner.sandbox import confined, shared_memory
from runyard.runner.team import Command, Launcher, Team, verdict
from runyard.runner.tidy import is_elsewhere, mark_used, tidy_node
from runyard.runner.usage import Usage
from runyard.runner.user import JobUser
from runyard.runner.variables import job_command, job_variables

if TYPE_CHECKING:
    from runyard.runner.mpi import MpiNode, MpiRun

# Parts that few runs need are imported where they do: on another machine each attempt waits for all that is imported.

#: How often new metrics and log bytes are sent, spools reach the disk, outputs are looked at.
SHIP_S, SYNC_S, OUTPUTS_S = 0.2, 1.0, 10.0
#: A script that ends within this time is reported in one request, its start with its end, seconds.
BRIEF_S = 0.1
#: How long a request may look for a server that is away while the script runs, seconds.
PATIENCE_S = 0.3
#: How long the processes have at most that a fence ends: another attempt begins soon after.
FENCE_GRACE_S = 10.0
#: How many lines of the log an error shows.
TAIL_LINES, TAIL_BYTES = 20, 16_384


#: What a node of a run watches.
Processes = Union[Script, Team, "MpiRun", "MpiNode"]


class PeerFailed(Exception):
    """Another node of the attempt has ended while this one was being prepared."""


class Stopped(Exception):
    """The attempt was told to stop while it was being prepared."""


def main(path: str, is_recovery: bool = False) -> None:
    """Carry out the attempt in that folder; nothing of it is left in this process when it returns."""
    folder = AttemptFolder(path)
    facts = folder.facts
    if folder.has_user:
        # Its environment, its kit and its inputs are read by a user who is not this one.
        os.umask(0o022)
    resolve = (
        file_resolver(Path(facts.server_file), facts.server_url) if facts.server_file else lambda: facts.server_url
    )
    server = Server(resolve, folder.secret, PATIENCE_S)
    attempt = Attempt(folder, server)
    signal.signal(signal.SIGTERM, attempt.on_terminate)
    adopt_orphans()
    if is_elsewhere(folder):
        mark_used(folder)
    try:
        if not is_recovery:
            attempt.carry_out()
        elif attempt.reporter.find(ReportKind.EXITED) is None:
            attempt.take_over()
        attempt.finish()
    except Superseded as error:
        folder.say(f"not wanted any more: {error}")
        end_all(folder.key, 0, attempt.user_number)
    attempt.close()
    leave(path)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    remove(path)
    if folder.is_confined:
        remove_tree(shared_memory(folder))
    # The kernel takes its time, and nobody waits for it.
    attempt.limits.close()
    if is_elsewhere(folder):
        tidy_node(Path(facts.cache_folder), folder.say, time.time())


class Attempt:
    """The state of one attempt while its runner lives."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._is_told_to_stop = False
        self._can_raise = True
        #: None: it is the only node.
        self._meeting = NodeMeeting(folder, server) if folder.plan.node_count > 1 else None
        self.reporter: Union[Reporter, NodeReporter] = Reporter(folder, server)
        if self._meeting is not None and folder.node > 0:
            self.reporter = NodeReporter(folder, self._meeting)
        self._ports = Ports()
        self.limits = Limits(folder)
        #: How a process of the job is started: as it is, or in a sandbox.
        self._launch: Launcher = Script
        #: Whose processes the job's are; None: this one's.
        self._user = JobUser.find(folder)
        self._record = Record(folder, server, self.reporter)
        #: Looks at what its processes take, while they run.
        self._usage: Optional[Usage] = None
        #: Keeps its environment from being removed.
        self._held: Optional[int] = None

    @property
    def user_number(self) -> Optional[int]:
        """The user id that is the attempt's own."""
        return None if self._user is None else self._user.number

    def on_terminate(self, _signal: int, _frame: Any) -> None:
        """TERM: end the script; during the preparation, end that."""
        self._is_told_to_stop = True
        if self._can_raise:
            self._can_raise = False
            raise Stopped

    def close(self) -> None:
        """Give back what the attempt held."""
        if self._usage is not None:
            self._usage.close()
        if self._meeting is not None:
            self._meeting.close()
        self._ports.close()
        self._server.close()
        if self._user is not None:
            self._user.close()
        if self._held is not None:
            os.close(self._held)

    def carry_out(self) -> None:
        """Prepare, run and watch the script; ends with an EXITED report made."""
        try:
            self._be_let_in()
            make = self._prepare()
            places = self._gather()
            self._can_raise = False
            script = self._start(make, places)
        except Superseded:
            self._can_raise = False
            raise
        except PeerFailed:
            self._can_raise = False
            self._exited(None, ExitCause.PEER)
            return
        except Stopped:
            self._end_processes(0.0)
            cause = self._why_stopped()
            self._exited(None, cause, *self._explain(None, cause))
            return
        except RunyardError as error:
            self._can_raise = False
            self._end_processes(0.0)
            self._exited(None, ExitCause.PREPARATION, str(error), code_of(error))
            return
        except Exception as error:  # noqa: BLE001 - the run must end with a sentence
            self._can_raise = False
            self._end_processes(0.0)
            self._folder.say(traceback.format_exc())
            self._exited(None, ExitCause.PREPARATION, f"It could not be prepared: {error}.", "SystemError")
            return
        self.reporter.add(ReportKind.STARTED)
        fence, self._usage = self._fence(), Usage(self._folder, self._server)
        code, cause = self._watch(script)
        script.close()
        # Without a code the script was given its grace already; its children are given no second one.
        self._end_processes(0.0 if code is None else self._folder.plan.grace_s)
        self._usage.close()
        if fence is not None:
            fence.close()
        self._exited(code, cause, *self._explain(code, cause, None if isinstance(script, Script) else script))

    def _be_let_in(self) -> None:
        """Elsewhere: begin nothing before the server has taken a word of this attempt. It may have given up waiting for
        one, and begun another (control/runs.py, ``begin_anew``)."""
        if is_elsewhere(self._folder):
            # Whoever is told to stop meanwhile looks there for what it has to send.
            self._folder.work.mkdir(parents=True, exist_ok=True)
            self.reporter.add(ReportKind.PREPARING, f"Its runner has begun on {self._folder.facts.node}.")
            insist(self.reporter.send, self._folder.say)

    def _start(self, make: Command, places: Sequence[Place]) -> Processes:
        folder = self._folder
        asked = folder.plan.distribution
        if asked is not None and asked.kind != DistributionKind.MPI:
            return Team(folder, self._meeting, places, make, self._launch)
        if asked is not None:
            from runyard.runner.mpi import MpiNode, MpiRun

            if self._meeting is not None and folder.node > 0:
                return MpiNode(folder, self._meeting, places, make, self._launch)
            return MpiRun(folder, self._meeting, places, make, self._launch)
        command, variables = make({})
        return self._launch(command, variables, folder.work, folder.log)

    def _fence(self) -> Optional[Fence]:
        """Ends the script where the server is out of reach for too long; None where it may be for ever."""
        plan = self._folder.plan
        if plan.fence_s is None:
            return None
        found = Fence(plan.fence_s, min(plan.grace_s, FENCE_GRACE_S), lambda: self.reporter.heard_at, self._be_told)
        found.start()
        return found

    def _be_told(self) -> None:
        self._is_told_to_stop = True
        self._folder.say("the server was out of reach for too long: the script is ended, since another may begin")

    def _gather(self) -> Sequence[Place]:
        """Where each node is, once all are ready to start; PeerFailed where one of them will not be."""
        plan, meeting, node = self._folder.plan, self._meeting, self._folder.node
        if plan.distribution is None:
            return ()
        self._ports.reserve(ports_wanted(plan.distribution, plan.node_count, node))
        place = Place(self._folder.facts.address, tuple(self._ports.numbers))
        if meeting is None:
            return (place,)
        meeting.tell(phase=Phase.READY, place=place)
        self._say(f"Its {plan.node_count} nodes get ready.")
        heartbeat_at = time.monotonic() + HEARTBEAT_S
        # What the server does not know to be ready, it may begin anew.
        while not (meeting.is_at(Phase.READY) and meeting.is_told):
            if any(one.end is not None for one in meeting.nodes):
                raise PeerFailed
            if time.monotonic() >= heartbeat_at:
                self.reporter.try_send()
                heartbeat_at = time.monotonic() + HEARTBEAT_S
            if self.reporter.cancel_requested:
                raise Stopped
            meeting.wait(1.0)
        return [one.place or place for one in meeting.nodes]

    def take_over(self) -> None:
        """The first runner is gone: end what it left behind, and say so."""
        self._can_raise = False
        self._remove_containers()
        end_all(self._folder.key, 0, self.user_number)
        unmount_all(self._folder)
        message = "The process that supervised the run was killed, so its script was ended too."
        self._exited(None, ExitCause.RUNNER_LOST, message, "SystemError", self._tail())

    def finish(self) -> None:
        """Bring everything to the server, however long it is away; the run's end is its last word."""
        self._can_raise = False
        say = self._folder.say
        is_small = self._meeting is None and self._record.is_small()
        if not is_small:
            self.reporter.try_send()
        if self.reporter.find(ReportKind.STORED) is None:
            insist(self._record.ship, say)
            self._await_nodes(Phase.STORED, range(self._folder.node))
            failure, artifacts = self._record.store(is_small)
            failure = self._await_record(failure)
            code = "StorageError" if failure else ""
            self.reporter.add(ReportKind.STORED, failure, error_code=code, artifacts=artifacts)
        try:
            insist(self.reporter.send, say)
        except RunyardError as error:
            # What the server refuses now it refuses for ever: the run ends without those files, and says so.
            say(f"the last report was refused: {error}")
            self.reporter.replace_last(f"Its outputs could not be recorded: {error}", "StorageError")
            insist(self.reporter.send, say)

    def _await_record(self, failure: str) -> str:
        """On the first node: until the others' files are in the record too; returns what kept any of them out."""
        if self._meeting is None or self._folder.node > 0:
            return failure
        self._meeting.tell(phase=Phase.STORED, failure=failure)
        self._await_nodes(Phase.STORED)
        return " ".join(dict.fromkeys(one.failure for one in self._meeting.nodes if one.failure))

    def _await_nodes(self, phase: str, numbers: Optional[range] = None) -> None:
        """Until other nodes are that far, giving signs of life; one that is lost is brought there by another runner."""
        heartbeat_at = time.monotonic() + HEARTBEAT_S
        while self._meeting is not None and not self._meeting.is_at(phase, numbers):
            self._meeting.wait(0.2)
            if time.monotonic() >= heartbeat_at:
                self.reporter.try_send()
                heartbeat_at = time.monotonic() + HEARTBEAT_S

    def _prepare(self) -> Command:
        """Make everything ready that the script needs; returns what makes its command and its variables."""
        folder, plan = self._folder, self._folder.plan
        folder.lay_out_source(self._server)
        folder.make()
        python = self._python()
        kit = find_kit(os.path.join(folder.facts.cache_folder, "kits"), plan.kit)
        if not python.image:
            compile_kit(kit, python.interpreter)
        self._record.restore()
        if folder.has_user:
            self._user = JobUser.take(folder)
            self._user.hand_over()
        inputs: Dict[str, str] = {}
        if plan.inputs:
            from runyard.runner.inputs import bind_inputs

            inputs = bind_inputs(folder, self._server, self._say)
        outputs = Destinations(folder, self._server).make()
        data = {**inputs, **outputs}
        if plan.script is not None and not plan.command and not (folder.work / plan.script).is_file():
            raise AzureMLException(f"The script {plan.script!r} is not in the source folder.")
        unlimited, enter, interpreter = self.limits.make(), self.limits.enter, python.interpreter
        if unlimited:
            folder.note(f"Its memory is not limited: {unlimited}.")
        folder.share_server_file()
        if python.image:
            from runyard.runner.container import contained

            self._launch = contained(folder, python, kit, data)
        elif folder.is_confined:
            self._launch = confined(folder, interpreter, kit, data, enter)
        elif self._user is not None:
            self._user.own_outputs(outputs)
            interpreter, self._launch = self._user.launcher(interpreter, enter, self.limits.processes_max)
        elif enter is not None:
            self._launch = partial(Script, enter=enter)
        self._launch = self.limits.held(self._launch)

        variables_of = job_variables(folder, interpreter, data, python.path)

        def make(wired: Dict[str, str]) -> Tuple[List[str], Dict[str, str]]:
            values = variables_of(wired)
            return job_command(plan, interpreter, values), values

        return make

    def _python(self) -> Realised:
        facts, lock = self._folder.facts, self._folder.plan.lock
        self._held = hold(lock, facts.cache_folder)
        if is_realised(lock, facts.cache_folder):
            return realise(lock, facts.cache_folder, uv="", log=self._folder.say)
        # Control has seen to it on its own host; another machine fetches or builds what it has not.
        from runyard.runner.node_tools import find_pack, uv_of

        self._say(f"Its environment is being built on {facts.node}.")
        return realise(
            lock,
            facts.cache_folder,
            uv=lambda: uv_of(self._folder, self._server),
            log=self._folder.say,
            fetch=self._fetch,
            pull=lambda: find_pack(self._folder, self._server),
        )

    def _fetch(self, file: StoredFile) -> Iterator[bytes]:
        names: Dict[str, Any] = {"workspace": file.workspace, "sha256": file.sha256, "name": file.name}
        return self._server.stream("read_environment_file", **names)

    def _say(self, message: str) -> None:
        self.reporter.add(ReportKind.PREPARING, message)
        self.reporter.try_send()

    def _watch(self, script: Processes) -> Tuple[Optional[int], str]:
        """Wait for the script, sending what it makes; end it when the user or its time limit says so."""
        plan, started = self._folder.plan, time.monotonic()
        limit = None if plan.max_run_duration_s is None else started + plan.max_run_duration_s
        next_at = {"ship": started + SHIP_S, "heartbeat": started + BRIEF_S, "sync": started + SYNC_S}
        next_at["outputs"] = started + OUTPUTS_S
        kill_at, cause = None, ExitCause.SCRIPT
        while True:
            code = script.wait(0.01 if kill_at else min(SHIP_S, max(0.0, min(next_at.values()) - time.monotonic())))
            if code is not None:
                if cause == ExitCause.SCRIPT and self._is_told_to_stop:
                    # Some engines tell every process at once, and the script was the faster one.
                    cause = self._why_stopped()
                return code, script.cause if cause == ExitCause.SCRIPT else cause
            now = time.monotonic()
            if kill_at is None:
                is_late = limit is not None and now >= limit
                if is_late or self._is_told_to_stop or self.reporter.cancel_requested:
                    cause = ExitCause.TIME_LIMIT if is_late else self._why_stopped()
                    if cause == ExitCause.RUNNER_LOST:
                        self._folder.notice_eviction()
                    script.terminate()
                    kill_at = now + plan.grace_s
            elif now >= kill_at:
                return None, cause
            self._do_due(next_at, now)

    def _do_due(self, next_at: Any, now: float) -> None:
        """Whatever is due: each failure is said and tried again, since training must not suffer from it."""
        work = {
            "ship": (SHIP_S, self._record.ship),
            "heartbeat": (HEARTBEAT_S, self.reporter.send),
            "sync": (SYNC_S, self._sync),
            "outputs": (OUTPUTS_S, self._record.ship_outputs),
        }
        for name, (every_s, do) in work.items():
            if now >= next_at[name]:
                try:
                    do()
                except (RunyardError, OSError) as error:
                    self._folder.say(f"{name}: {error}")
                    next_at[name] = time.monotonic() + max(1.0, every_s)
                else:
                    next_at[name] = time.monotonic() + every_s

    def _sync(self) -> None:
        self._record.sync()
        self._folder.share_server_file()

    def _why_stopped(self) -> str:
        """A user's wish, or else this machine's: whoever shuts it down sends TERM too."""
        if not self.reporter.cancel_requested:
            self.reporter.try_send()
        return ExitCause.CANCELED if self.reporter.cancel_requested else ExitCause.RUNNER_LOST

    def _end_processes(self, grace_s: float) -> None:
        """End what the script left running; nothing of a run lives longer than the run."""
        unmount_all(self._folder)
        self._remove_containers()
        if not are_gone():
            count = end_all(self._folder.key, grace_s, self.user_number)
            # An engine's client may have been making one meanwhile.
            self._remove_containers()
            self._folder.say(f"{count} processes were still running and were ended")

    def _remove_containers(self) -> None:
        if self._folder.plan.container is not None:
            from runyard.runner.container import remove_containers

            remove_containers(self._folder)

    def _exited(
        self, code: Optional[int], cause: str, message: str = "", error_code: str = "", details: str = ""
    ) -> None:
        unmount_all(self._folder)
        told: Dict[str, Any] = {"exit_code": code, "cause": cause, "error_code": error_code, "details": details}
        if self._meeting is not None and self._folder.node == 0:
            own = Report(self._folder.plan.attempt, 1, ReportKind.EXITED, message, **told)
            self._meeting.tell(phase=Phase.ENDED, end=own, workers_left=0)
            self._await_nodes(Phase.ENDED)
            found = verdict(self._meeting.nodes, own)
            message, told = found.message, {name: getattr(found, name) for name in told}
        self.reporter.add(ReportKind.EXITED, message, **told)

    def _explain(
        self, code: Optional[int], cause: str, team: Union[Team, "MpiRun", "MpiNode", None] = None
    ) -> Tuple[str, str, str]:
        """(message, error code, log's tail) of how the script ended."""
        plan = self._folder.plan
        log, whose = self._folder.log, ""
        if team is not None and team.blamed is not None:
            log, whose = self._folder.process_log(team.blamed), f"{team.blamed.shown} on node {team.blamed.node}: "
        if cause == ExitCause.TIME_LIMIT:
            text = f"It ran longer than max_run_duration_seconds ({plan.max_run_duration_s}) and was ended."
            return text, "TimeLimit", self._tail()
        if cause == ExitCause.RUNNER_LOST:
            return (
                "It was ended by its machine (evicted, or shut down), and not by a cancel.",
                "SystemError",
                self._tail(),
            )
        if cause in (ExitCause.CANCELED, ExitCause.PEER) or code == 0:
            return "", "", ""
        what = plan.script or " ".join(plan.command)
        tail = tail_of(str(log), TAIL_LINES, TAIL_BYTES)
        exceeded = self.limits.exceeded()
        if exceeded:
            return f"{whose}{what!r} {exceeded}.", "UserError", tail
        if team is not None and team.remark:
            return f"{whose}{what!r} {team.remark}.", "UserError", tail
        if code is not None and code < 0:
            text = f"{whose}{what!r} was killed by {describe_signal(-code)}."
            return text, "UserError", tail
        last = tail.strip().splitlines()[-1:] or ["it printed nothing"]
        return f"{whose}{what!r} ended with exit code {code}: {last[0][:500]}", "UserError", tail

    def _tail(self) -> str:
        return tail_of(str(self._folder.log), TAIL_LINES, TAIL_BYTES)


if __name__ == "__main__":
    claim(sys.argv[1])
    main(sys.argv[1], "--recover" in sys.argv[2:])
