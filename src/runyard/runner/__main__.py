"""One attempt from its folder to its last report: prepare, run, supervise, finish. Also: python -m runyard.runner."""

import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from runyard.client.http import Server, file_resolver
from runyard.client.shipper import LogShipper, MetricsShipper
from runyard.environments.kit import compile_kit, find_kit
from runyard.environments.realise import is_realised, realise
from runyard.environments.uv import find_uv
from runyard.errors import (
    AuthenticationException,
    AzureMLException,
    ConflictError,
    EnvironmentBuildError,
    NotFoundError,
    RunyardError,
    ServiceException,
    StorageFullError,
    UserErrorException,
)
from runyard.protocol.plan import ExitCause, ReportKind
from runyard.protocol.runs import Artifact
from runyard.runner.folder import AttemptFolder, claim
from runyard.runner.inputs import bind_inputs
from runyard.runner.outputs import STD_LOG, Outputs
from runyard.runner.processes import Script, adopt_orphans, end_all, has_children
from runyard.runner.report import STALE, Reporter, Superseded, ask, insist
from runyard.runner.variables import job_command, job_variables

#: How often new metrics and log bytes are sent, a sign of life is given, spools reach the disk, outputs are looked at.
SHIP_S, HEARTBEAT_S, SYNC_S, OUTPUTS_S = 0.2, 5.0, 1.0, 10.0
#: How long a request may look for a server that is away while the script runs, seconds.
PATIENCE_S = 0.3
#: How many lines of the log an error shows.
TAIL_LINES, TAIL_BYTES = 20, 16_384


class Stopped(Exception):
    """The attempt was told to stop while it was being prepared."""


def main(path: str, is_recovery: bool = False) -> int:
    """Carry out the attempt in that folder; returns the runner's own exit code."""
    folder = AttemptFolder(path)
    facts = folder.facts
    resolve = (
        file_resolver(Path(facts.server_file), facts.server_url) if facts.server_file else lambda: facts.server_url
    )
    attempt = Attempt(folder, Server(resolve, folder.secret, PATIENCE_S))
    signal.signal(signal.SIGTERM, attempt.on_terminate)
    adopt_orphans()
    try:
        if not is_recovery:
            attempt.carry_out()
        elif attempt.reporter.find(ReportKind.EXITED) is None:
            attempt.take_over()
        attempt.finish()
    except Superseded as error:
        folder.say(f"not wanted any more: {error}")
        end_all(folder.key, 0)
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # another attempt's folder is there
    return 0


class Attempt:
    """The state of one attempt while its runner lives."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._is_told_to_stop = False
        self._can_raise = True
        self.reporter = Reporter(folder, server)
        plan = folder.plan
        names: Dict[str, Any] = {"workspace": plan.workspace, "run_id": plan.run_id}
        self._metrics = MetricsShipper(
            str(folder.spool), plan.attempt, lambda body: server.call("add_metrics", body, **names).sequence
        )
        self._logs = LogShipper(
            lambda name, offset, data: server.call("append_log", data, {"offset": offset}, path=name, **names).offset
        )
        self._outputs = Outputs(folder, server)
        #: Logs that cannot be followed.
        self._unsent: Set[str] = set()
        self._told: Set[str] = set()

    def on_terminate(self, _signal: int, _frame: Any) -> None:
        """TERM: end the script; during the preparation, end that."""
        self._is_told_to_stop = True
        if self._can_raise:
            self._can_raise = False
            raise Stopped

    def carry_out(self) -> None:
        """Prepare, run and watch the script; ends with an EXITED report made."""
        try:
            command, variables = self._prepare()
            self._can_raise = False
            script = Script(command, variables, self._folder.work, self._folder.log)
        except Stopped:
            self._end_processes(0.0)
            self._exited(None, ExitCause.CANCELED, "Canceled before its script started.")
            return
        except RunyardError as error:
            self._can_raise = False
            self._exited(None, ExitCause.PREPARATION, str(error), _code(error))
            return
        except Exception as error:  # noqa: BLE001 - the run must end with a sentence
            self._can_raise = False
            self._folder.say(traceback.format_exc())
            self._exited(None, ExitCause.PREPARATION, f"It could not be prepared: {error}.", "SystemError")
            return
        self.reporter.add(ReportKind.STARTED)
        self.reporter.try_send()
        code, cause = self._watch(script)
        # Without a code the script was given its grace already; its children are given no second one.
        self._end_processes(0.0 if code is None else self._folder.plan.grace_s)
        self._exited(code, cause, *self._explain(code, cause))

    def take_over(self) -> None:
        """The first runner is gone: end what it left behind, and say so."""
        self._can_raise = False
        end_all(self._folder.key, 0)
        message = "The process that supervised the run was killed, so its script was ended too."
        self._exited(None, ExitCause.RUNNER_LOST, message, "SystemError", self._tail())

    def finish(self) -> None:
        """Bring everything to the server, however long it is away; the run's end is its last word."""
        self._can_raise = False
        say = self._folder.say
        if not self._outputs.is_small():
            self.reporter.try_send()
        if self.reporter.find(ReportKind.STORED) is None:
            insist(self._ship, say)
            failure, artifacts = self._store()
            code = "StorageError" if failure else ""
            self.reporter.add(ReportKind.STORED, failure, error_code=code, artifacts=artifacts)
        try:
            insist(self.reporter.send, say)
        except RunyardError as error:
            # What the server refuses now it refuses for ever: the run ends without those files, and says so.
            say(f"the last report was refused: {error}")
            self.reporter.replace_last(f"Its outputs could not be recorded: {error}", "StorageError")
            insist(self.reporter.send, say)

    def _prepare(self) -> Tuple[List[str], Dict[str, str]]:
        """Make everything ready that the script needs; returns its command and its variables."""
        folder, plan = self._folder, self._folder.plan
        folder.lay_out_source(self._server)
        folder.make()
        interpreter = self._interpreter()
        compile_kit(find_kit(os.path.join(folder.facts.cache_folder, "kits"), plan.kit), interpreter)
        inputs = bind_inputs(folder, self._server, self._say)
        values = job_variables(folder, interpreter, inputs)
        if plan.script is not None and not plan.command and not (folder.work / plan.script).is_file():
            raise AzureMLException(f"The script {plan.script!r} is not in the source folder.")
        return job_command(plan, interpreter, values), values

    def _interpreter(self) -> str:
        facts, lock = self._folder.facts, self._folder.plan.lock
        uv = "" if is_realised(lock, facts.cache_folder) else find_uv()
        return realise(lock, facts.cache_folder, uv=uv, log=self._folder.say).interpreter

    def _say(self, message: str) -> None:
        self.reporter.add(ReportKind.PREPARING, message)
        self.reporter.try_send()

    def _watch(self, script: Script) -> Tuple[Optional[int], str]:
        """Wait for the script, sending what it makes; end it when the user or its time limit says so."""
        plan, started = self._folder.plan, time.monotonic()
        limit = None if plan.max_run_duration_s is None else started + plan.max_run_duration_s
        next_at = {"ship": started + SHIP_S, "heartbeat": started + HEARTBEAT_S, "sync": started + SYNC_S}
        next_at["outputs"] = started + OUTPUTS_S
        kill_at, cause = None, ExitCause.SCRIPT
        while True:
            code = script.wait(0.01 if kill_at else min(SHIP_S, max(0.0, min(next_at.values()) - time.monotonic())))
            if code is not None:
                return code, cause
            now = time.monotonic()
            if kill_at is None:
                is_late = limit is not None and now >= limit
                if is_late or self._is_told_to_stop or self.reporter.cancel_requested:
                    cause = ExitCause.TIME_LIMIT if is_late else ExitCause.CANCELED
                    script.terminate()
                    kill_at = now + plan.grace_s
            elif now >= kill_at:
                return None, cause
            self._do_due(next_at, now)

    def _do_due(self, next_at: Any, now: float) -> None:
        """Whatever is due: each failure is said and tried again, since training must not suffer from it."""
        work = {
            "ship": (SHIP_S, self._ship),
            "heartbeat": (HEARTBEAT_S, self.reporter.send),
            "sync": (SYNC_S, self._metrics.sync),
            "outputs": (OUTPUTS_S, self._outputs.ship_changed),
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

    def _ship(self) -> None:
        self._logs.ship(STD_LOG, str(self._folder.log))
        for name, path in self._outputs.logs():
            if name not in self._unsent:
                self._ship_log(name, path)
        self._metrics.ship()

    def _ship_log(self, name: str, path: str) -> None:
        """One of the script's own logs. One that the server refuses is not followed; it is stored at the end."""
        try:
            self._logs.ship(name, path)
        except (UserErrorException, OSError) as error:
            if isinstance(error, (ConflictError, NotFoundError, AuthenticationException)):
                raise
            self._unsent.add(name)
            self._folder.say(f"{name} is not followed any more: {error}")

    def _end_processes(self, grace_s: float) -> None:
        """End what the script left running; nothing of a run lives longer than the run."""
        if has_children():
            count = end_all(self._folder.key, grace_s)
            self._folder.say(f"{count} processes were still running and were ended")

    def _store(self) -> Tuple[str, Tuple[Artifact, ...]]:
        """Store the record; returns '' or why it is not complete, and what the last report has to record.

        A full disk is waited for, and said.
        """
        pause_s, told = 0.5, False
        while True:
            try:
                return "", ask(self._store_record, STALE)
            except ServiceException as error:
                if isinstance(error, StorageFullError) and not told:
                    self._say(str(error))
                    told = True
            except (RunyardError, OSError) as error:
                return f"Its outputs could not be stored: {error}", ()
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 1.5)

    def _store_record(self) -> Tuple[Artifact, ...]:
        rest = self._outputs.store_files()
        self._tell_losses()
        return rest + self._outputs.store_log()

    def _tell_losses(self) -> None:
        """Say in the run's own log what its record lacks, each once."""
        losses = list(self._outputs.notices)
        for writer, offset in self._metrics.damaged.items():
            losses.append(f"The metrics of writer {writer} are damaged after {offset} bytes; what follows is lost.")
        for why in self._metrics.refused.values():
            losses.append(f"Metrics were refused: {why}")
        with open(str(self._folder.log), "a", encoding="utf-8", errors="replace") as log:
            for loss in losses:
                if loss not in self._told:
                    self._told.add(loss)
                    log.write(f"Runyard: {loss}\n")

    def _exited(
        self, code: Optional[int], cause: str, message: str = "", error_code: str = "", details: str = ""
    ) -> None:
        self.reporter.add(
            ReportKind.EXITED, message, exit_code=code, cause=cause, error_code=error_code, details=details
        )

    def _explain(self, code: Optional[int], cause: str) -> Tuple[str, str, str]:
        """(message, error code, log's tail) of how the script ended."""
        plan = self._folder.plan
        if cause == ExitCause.TIME_LIMIT:
            text = f"It ran longer than max_run_duration_seconds ({plan.max_run_duration_s}) and was ended."
            return text, "TimeLimit", self._tail()
        if cause == ExitCause.CANCELED or code == 0:
            return "", "", ""
        what = plan.script or " ".join(plan.command)
        tail = self._tail()
        if code is not None and code < 0:
            text = f"{what!r} was killed by {_signal_name(-code)} (out of memory, or by someone else)."
            return text, "UserError", tail
        last = tail.strip().splitlines()[-1:] or ["it printed nothing"]
        return f"{what!r} ended with exit code {code}: {last[0][:500]}", "UserError", tail

    def _tail(self) -> str:
        try:
            with open(str(self._folder.log), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return "\n".join(file.read().decode("utf-8", "replace").replace("\0", "").splitlines()[-TAIL_LINES:])
        except OSError:
            return ""


def _code(error: RunyardError) -> str:
    if isinstance(error, EnvironmentBuildError):
        return "EnvironmentError"
    return "StorageError" if isinstance(error, StorageFullError) else "DataError"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    claim(sys.argv[1])
    sys.exit(main(sys.argv[1], "--recover" in sys.argv[2:]))
