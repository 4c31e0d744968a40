"""The life of one run, step by step: what a report, a wish or an observation makes of its status.

Each function is one transaction of the writer. Nothing outside this room changes a status.
"""

from typing import Any, List, Mapping, Optional, Sequence

from sqlalchemy import Connection, Row

from runyard.control.schedule import LOCAL, Decision
from runyard.db import attempt_logs, datasets, datastores, fleet, identity, lineage, meetings, runs
from runyard.db.runs import Steps, advance, find_steps
from runyard.errors import ConflictError, NotFoundError, UserErrorException
from runyard.protocol.compute import VmPriority
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.lineage import DatasetUse, Direction
from runyard.protocol.meeting import PHASES, Phase
from runyard.protocol.outputs import OutputSpec, made_dataset
from runyard.protocol.plan import ExitCause, Report, ReportBatch, ReportKind, ReportReply
from runyard.protocol.runs import TERMINAL, Run, RunError, RunKind, RunStatus
from runyard.protocol.wire import dumps
from runyard.protocol.words import counted

#: A run's token works this long after the run has ended, so that its last requests get through.
TOKEN_GRACE_US = 600 * 1_000_000
#: What a local run is told that finds none left.
NO_GPUS = "It sees no GPU: those of this machine are for the runs of clusters now."
#: How often a run begins anew whose attempt was lost before anything of it began, on dedicated targets too.
ANEW_MAX = 2
#: Infrastructure retries by default.
RETRIES = {VmPriority.DEDICATED: 0, VmPriority.LOW: 3}


def take_reports(connection: Connection, workspace: str, run_id: str, batch: ReportBatch, now: int) -> ReportReply:
    """Keep a runner's reports and let them move the run, in one transaction.

    Taken in their order: those that came before count once, and what comes after a gap is sent again.
    """
    row = runs.get_row(connection, workspace, run_id)
    if batch.attempt is not None and batch.attempt != row.attempt:
        raise ConflictError(f"Attempt {batch.attempt} of run {row.id} is over; it is now {row.attempt}.")
    known = row.report_seq
    new = [report for report in sorted(batch.reports, key=lambda one: one.sequence) if report.sequence > known]
    in_order = [report for place, report in enumerate(new, known + 1) if report.sequence == place]
    runs.add_reports(connection, row, in_order or batch.reports[:1], now)
    run = Steps(connection, row)
    run.touch(report_seq=known + len(in_order), heard_at=now)
    if run.status == RunStatus.NOT_RESPONDING:
        run.advance(RunStatus.RUNNING, now)
    for report in in_order:
        if run.status not in TERMINAL:
            _apply(run, report, in_order, _time_of(report, batch, run.reason_at, now))
    run.save()
    return ReportReply(known + len(in_order), row.cancel_requested)


def prepare(connection: Connection, run_id: str, reason: str, now: int) -> None:
    """Starting -> Preparing: its environment is on its way; once there, how far that is."""
    run = find_steps(connection, run_id)
    if run is None:
        return
    if run.status == RunStatus.STARTING:
        run.advance(RunStatus.PREPARING, now, reason=reason)
    elif run.status == RunStatus.PREPARING:
        run.say(reason, now)
    run.save()


def place(
    connection: Connection,
    decision: Decision,
    ready: Mapping[str, str],
    reasons: Mapping[str, str],
    secrets: Mapping[str, str],
    now: int,
) -> List[str]:
    """Write a decision down; returns the runs to start.

    ``ready``: locks of the runs that come to the queue now. ``reasons``: why others wait. ``secrets``: the tokens of
    those that are assigned. A run that was canceled since is passed over, and its node is free at the next decision.
    """
    for node_id in decision.removed:
        fleet.remove_node(connection, node_id)
    for node_id, workspace, cluster in decision.added:
        fleet.add_node(connection, node_id, workspace, cluster, now)
    assigned = dict(decision.assigned)
    started = []
    for run_id in {**ready, **reasons, **assigned}:
        run = find_steps(connection, run_id)
        if run is None:
            continue
        if run_id in ready:
            _queue(run, ready[run_id], reasons.get(run_id, "Ready; waits for its turn."), now)
        elif run_id in reasons and run.status == RunStatus.QUEUED:
            run.say(reasons[run_id], now)
        if run_id in assigned and _assign(run, assigned[run_id], secrets[run_id], now):
            run.touch(gpus=decision.gpus.get(run_id))
            _warn_without_gpus(run, decision)
            started.append(run_id)
        run.save()
    return started


def _warn_without_gpus(run: Steps, decision: Decision) -> None:
    if run.row.target == LOCAL and decision.gpus.get(run.row.id) == "":
        runs.add_warnings(run.connection, run.row.id, [NO_GPUS])


def _queue(run: Steps, lock: str, reason: str, now: int) -> None:
    """Starting or Preparing -> Queued: all it needs now is a node."""
    if run.status == RunStatus.STARTING:
        run.advance(RunStatus.PREPARING, now)
    if run.status == RunStatus.PREPARING:
        run.advance(RunStatus.QUEUED, now, reason=reason, lock=lock)


def _assign(run: Steps, node_ids: Sequence[str], secret: str, now: int) -> bool:
    """Write down where the attempt will run, and its key, before it is started there."""
    row = run.row
    if run.status != RunStatus.QUEUED or row.key is not None or row.cancel_requested:
        return False
    for node_id in node_ids:
        fleet.assign_node(run.connection, node_id, row.id, now)
    key = f"{row.id}/{row.attempt}"
    # Its silence counts from its own start, not from the last word of the attempt before it.
    place = node_ids[0] if node_ids else LOCAL
    run.touch(node=place, key=key, reason="Its runner is starting.", reason_at=now, heard_at=now)
    _add_run_token(run.connection, row, secret, now)
    return True


def start_again(connection: Connection, row: Row[Any], secret: str, now: int) -> bool:
    """Give an attempt that left no trace of its start a new token; False where it has moved since ``row`` was read."""
    found = runs.find_row(connection, row.id)
    if found is None or (found.status, found.key, found.report_seq) != (RunStatus.QUEUED, row.key, 0):
        return False
    # Should the engine have begun it after all, that runner is told to end before it begins anything.
    identity.expire_run_tokens(connection, row.id, now)
    _add_run_token(connection, found, secret, now)
    run = Steps(connection, found)
    run.touch(heard_at=now)
    run.save()
    return True


def _add_run_token(connection: Connection, row: Row[Any], secret: str, now: int) -> None:
    """Make ``secret`` the token of the row's run: for that run only, until it has ended."""
    principal = Principal(PrincipalKind.RUN, "run:" + row.id, "run", row.workspace, row.id)
    identity.add_token(connection, secret, principal, "control", now)


def cancel(connection: Connection, run_id: str, now: int) -> bool:
    """Carry out a cancel wish as far as the database can; True: its runner must be told to stop."""
    run = find_steps(connection, run_id)
    if run is None or run.status in TERMINAL or run.status == RunStatus.FINALIZING:
        return False
    if run.status != RunStatus.CANCEL_REQUESTED:
        run.advance(RunStatus.CANCEL_REQUESTED, now, reason="Its processes are ending.")
    has_runner = run.row.key is not None
    if not has_runner:
        _end(run, RunStatus.CANCELED, now)
    run.save()
    return has_runner


def miss(connection: Connection, run_id: str, reason: str, now: int) -> None:
    """Running -> NotResponding: its runner lives and says nothing; its next report brings it back."""
    advance(connection, run_id, RunStatus.RUNNING, RunStatus.NOT_RESPONDING, now, reason=reason)


def request_cancel(connection: Connection, workspace: str, run_id: str, user: str, now: int) -> Run:
    """A user's wish that the run ends. The loop carries it out; a run that nobody supervises ends at once."""
    run = runs.request_cancel(connection, workspace, run_id, user, now)
    if run.spec.kind == RunKind.INTERACTIVE and run.status not in TERMINAL:
        end_interactive(connection, run, RunStatus.CANCELED, None, user, now)
        run = runs.get_run(connection, workspace, run_id)
    return run


def end_interactive(connection: Connection, run: Run, status: str, error: Optional[str], user: str, now: int) -> None:
    """The end of a run that its own caller carries: the caller's word is the fact."""
    if run.spec.kind != RunKind.INTERACTIVE:
        raise ConflictError(f"Run {run.id} was submitted; it ends with its script.")
    if run.status in TERMINAL:
        return
    if status not in TERMINAL:
        raise UserErrorException(f"A run can end as Completed, Failed or Canceled, not as {status!r}.")
    failure = dumps(RunError("UserError", error)) if error else None
    via = RunStatus.CANCEL_REQUESTED if status == RunStatus.CANCELED else run.status
    if via != run.status:
        advance(connection, run.id, run.status, via, now, by=user)
    advance(connection, run.id, via, status, now, by=user, error=failure)


def fail(connection: Connection, run_id: str, error: RunError, now: int) -> None:
    """End a run as Failed, or Canceled where that was asked for; nothing of it may be alive any more."""
    run = find_steps(connection, run_id)
    if run is None or run.status in TERMINAL:
        return
    if run.status == RunStatus.CANCEL_REQUESTED:
        _end(run, RunStatus.CANCELED, now, error=None)
    else:
        _end(run, RunStatus.FAILED, now, error=dumps(error))
    run.save()


def explain_wait(connection: Connection, run_id: str, reason: str, now: int) -> None:
    """What a run that is handed over, and has not begun, waits for."""
    run = find_steps(connection, run_id)
    if run is not None and run.status == RunStatus.QUEUED:
        run.say(reason, now)
        run.save()


def lose(connection: Connection, run_id: str, key: str, detail: str, now: int) -> None:
    """The attempt is gone with all that it had not sent: the run goes back to the queue, or ends; it may have moved."""
    run = find_steps(connection, run_id)
    if run is None or run.status in TERMINAL or run.row.key != key:
        return
    if run.row.cancel_requested:
        if run.status not in (RunStatus.CANCEL_REQUESTED, RunStatus.FINALIZING):
            run.advance(RunStatus.CANCEL_REQUESTED, now)
        _end(run, RunStatus.CANCELED, now, error=None)
    elif may_retry(connection, run.row):
        _requeue(run, now, _starts_again(run.row))
    else:
        detail = f"{detail} {_why_not_again(run.row)}".strip()
        message = f"Its compute target lost it in attempt {run.row.attempt}. {detail}"
        _end(run, RunStatus.FAILED, now, error=dumps(RunError("SystemError", message)))
    run.save()


def begin_anew(connection: Connection, run_id: str, key: str, now: int) -> bool:
    """Back to the queue with a run whose attempt elsewhere was lost before anything of it began; False: it may have.

    A runner elsewhere begins nothing before the server has taken a word of it (runner/__main__.py), and takes none of
    an attempt that is over: so nothing of this one can begin after this step, wherever its runner is.
    """
    run = find_steps(connection, run_id)
    if run is None or run.status != RunStatus.QUEUED or run.row.key != key or run.row.cancel_requested:
        return False
    row = run.row
    # Each attempt is the first, a retry, or one of these.
    if _may_have_begun(connection, row) or row.attempt - 1 - row.retries >= ANEW_MAX:
        return False
    _requeue(run, now, f"Attempt {row.attempt} was lost before anything of it began; it begins anew.", 0)
    run.save()
    return True


def _may_have_begun(connection: Connection, row: Row[Any]) -> bool:
    nodes = meetings.list_nodes(connection, row.id, row.attempt)
    if row.node_count > 1 and runs.get_spec(connection, row.id).distribution is not None:
        # None of them begins before it has heard from here that all are ready.
        ready = [one for one in nodes if PHASES.index(one.phase) >= PHASES.index(Phase.READY)]
        return bool(len(ready) == row.node_count)
    return bool(row.report_seq > 0 or nodes)


def _time_of(report: Report, batch: ReportBatch, last_at: int, now: int) -> int:
    """When a report's event happened, by this server's clock: as long ago as the runner says, after the run's last one.

    A runner may be away for hours, and the start of a brief script comes with its end.
    """
    if report.at is None or batch.sent_at is None:
        return now
    return min(now, max(now - (batch.sent_at - report.at), last_at))


def _apply(run: Steps, report: Report, batch: Sequence[Report], now: int) -> None:
    if report.kind == ReportKind.PREPARING:
        run.say(report.message, now)
    elif report.kind == ReportKind.STARTED:
        if run.status == RunStatus.QUEUED:
            run.advance(RunStatus.RUNNING, now, started_at=now)
    elif report.kind == ReportKind.EXITED:
        _exited(run, report, now)
    elif report.kind == ReportKind.STORED:
        _stored(run, report, _exit_report(run, batch), now)


def _exited(run: Steps, report: Report, now: int) -> None:
    error = None
    if report.cause != ExitCause.CANCELED and (report.exit_code != 0 or report.cause != ExitCause.SCRIPT):
        error = dumps(RunError(report.error_code or "UserError", report.message, report.details))
    if run.status in (RunStatus.RUNNING, RunStatus.NOT_RESPONDING):
        run.advance(RunStatus.FINALIZING, now, reason="Its outputs are being stored.")
    run.touch(exit_code=report.exit_code, error=error)


def _stored(run: Steps, report: Report, exited: Optional[Report], now: int) -> None:
    """The attempt's record is complete and verified: the run ends, or goes back to the queue."""
    if exited is None:
        return
    row = run.row
    runs.add_artifacts(run.connection, row, report.artifacts, "run:" + row.id, now)
    if exited.cause == ExitCause.RUNNER_LOST and not row.cancel_requested and may_retry(run.connection, row):
        _requeue(run, now, _starts_again(row))
    elif exited.cause == ExitCause.CANCELED or (run.status == RunStatus.CANCEL_REQUESTED and exited.exit_code != 0):
        if run.status not in (RunStatus.CANCEL_REQUESTED, RunStatus.FINALIZING):
            run.advance(RunStatus.CANCEL_REQUESTED, now)
        _end(run, RunStatus.CANCELED, now, error=None)
    elif exited.exit_code == 0 and exited.cause == ExitCause.SCRIPT and not report.error_code:
        _make_datasets(run, now)
        _end(run, RunStatus.COMPLETED, now)
    elif report.error_code:
        _end(run, RunStatus.FAILED, now, error=dumps(RunError(report.error_code, report.message, report.details)))
    elif exited.cause == ExitCause.RUNNER_LOST:
        message = f"{exited.message} {_why_not_again(row)}".strip()
        _end(run, RunStatus.FAILED, now, error=dumps(RunError("SystemError", message, exited.details)))
    else:
        _end(run, RunStatus.FAILED, now)


def _make_datasets(run: Steps, now: int) -> None:
    """What the run has written as datasets, registered where it was asked for."""
    row = run.row
    for output in runs.get_outputs(run.connection, row.id):
        if output.dataset is not None and _has_datastore(run, output):
            wanted = made_dataset(output, output.dataset, row.id)
            made = datasets.save_dataset(run.connection, wanted, row.workspace, row.created_by, now)
            use = DatasetUse(row.id, made.id, Direction.OUTPUT, output.name, now)
            lineage.add_use(run.connection, row.workspace, use, row.created_by)


def _has_datastore(run: Steps, output: OutputSpec) -> bool:
    """Is the output's datastore registered still? One that was taken off the list meanwhile has no dataset."""
    try:
        datastores.get_datastore(run.connection, run.row.workspace, output.datastore)
    except NotFoundError as error:
        runs.add_warnings(run.connection, run.row.id, [f"Output {output.name!r} became no dataset: {error}"])
        return False
    return True


def _exit_report(run: Steps, batch: Sequence[Report]) -> Optional[Report]:
    """How the attempt's script ended, as said in this batch or in one before it."""
    found = [report for report in batch if report.kind == ReportKind.EXITED]
    if not found:
        before = runs.list_reports(run.connection, run.row.id, run.row.attempt, 0)
        found = [report for report in before if report.kind == ReportKind.EXITED]
    return found[0] if found else None


def may_retry(connection: Connection, row: Row[Any]) -> bool:
    """May another attempt begin where the machine of this one is lost?"""
    asked = runs.get_spec(connection, row.id).max_infrastructure_retries
    allowed = RETRIES[_vm_priority(connection, row)] if asked is None else asked
    return bool(row.retries < allowed)


def _why_not_again(row: Row[Any]) -> str:
    """What is said of a run that lost its machine, and may not start again."""
    if row.retries:
        return f"It had started again {counted(row.retries, 'time')}, as often as max_infrastructure_retries lets it."
    return "It does not start again, unless max_infrastructure_retries or a target of low priority lets it."


def _vm_priority(connection: Connection, row: Row[Any]) -> str:
    for cluster in fleet.list_clusters(connection, row.workspace):
        if cluster.name == row.target:
            return cluster.spec.vm_priority
    return VmPriority.DEDICATED


def _starts_again(row: Row[Any]) -> str:
    return f"Its machine or its runner was lost in attempt {row.attempt}; it starts again."


def _requeue(run: Steps, now: int, reason: str, retries: int = 1) -> None:
    """Back to the queue, for another attempt; ``retries``: how many that takes of those that a run has."""
    row = run.row
    values = {
        "attempt": row.attempt + 1,
        "retries": row.retries + retries,
        "report_seq": 0,
        "error": None,
        "gpus": None,
    }
    attempt_logs.set_aside(run.connection, row.id, row.attempt)
    run.advance(RunStatus.QUEUED, now, reason=reason, key=None, node=None, exit_code=None, started_at=None, **values)
    _free_nodes(run, now)


def _end(run: Steps, status: str, now: int, **changes: Any) -> None:
    run.advance(status, now, **changes)
    _free_nodes(run, now)
    identity.expire_run_tokens(run.connection, run.row.id, now + TOKEN_GRACE_US)


def _free_nodes(run: Steps, now: int) -> None:
    if run.row.node and run.row.node != LOCAL:
        fleet.free_nodes(run.connection, run.row.id, now)
