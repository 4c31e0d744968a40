"""The life of one run, step by step: what a report, a wish or an observation makes of its status.

Each function is one transaction of the writer. Nothing outside this room changes a status.
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence

from sqlalchemy import Connection, Row

from runyard.control.schedule import Decision
from runyard.db import fleet, identity, runs
from runyard.db.runs import advance, touch
from runyard.errors import ConflictError, UserErrorException
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.plan import ExitCause, Report, ReportBatch, ReportKind, ReportReply
from runyard.protocol.runs import TERMINAL, Run, RunError, RunKind, RunStatus
from runyard.protocol.wire import dumps

#: A run's token works this long after the run has ended, so that its last requests get through.
TOKEN_GRACE_US = 600 * 1_000_000
#: Infrastructure retries by default.
RETRIES = {"dedicated": 0, "lowpriority": 3}


def take_reports(connection: Connection, workspace: str, run_id: str, batch: ReportBatch, now: int) -> ReportReply:
    """Keep a runner's reports and let them move the run, in one transaction.

    Taken in their order: those that came before count once, and what comes after a gap is sent again.
    """
    row = runs.get_row(connection, workspace, run_id)
    known = row.report_seq
    new = [report for report in sorted(batch.reports, key=lambda one: one.sequence) if report.sequence > known]
    in_order = [report for place, report in enumerate(new, known + 1) if report.sequence == place]
    runs.add_reports(connection, row, in_order or batch.reports[:1], now)
    touch(connection, run_id, report_seq=known + len(in_order), heard_at=now)
    if row.status == RunStatus.NOT_RESPONDING:
        advance(connection, run_id, RunStatus.NOT_RESPONDING, RunStatus.RUNNING, now)
        row = runs.get_row(connection, workspace, run_id)
    for report in in_order:
        if row.status not in TERMINAL:
            _apply(connection, row, report, in_order, _time_of(report, batch, row, now))
        if report is not in_order[-1]:
            row = runs.get_row(connection, workspace, run_id)
    return ReportReply(known + len(in_order), row.cancel_requested)


def prepare(connection: Connection, run_id: str, reason: str, now: int) -> None:
    """Starting -> Preparing: its environment is on its way; once there, how far that is."""
    row = _row(connection, run_id)
    if row is not None and row.status == RunStatus.STARTING:
        advance(connection, run_id, RunStatus.STARTING, RunStatus.PREPARING, now, reason=reason)
    elif row is not None and row.status == RunStatus.PREPARING:
        runs.set_reason(connection, run_id, row.status, reason, now)


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
    for run_id, lock in ready.items():
        queue(connection, run_id, lock, reasons.get(run_id, "Ready; waits for its turn."), now)
    for run_id, reason in reasons.items():
        if run_id not in ready:
            runs.set_reason(connection, run_id, RunStatus.QUEUED, reason, now)
    return [run_id for run_id, node in decision.assigned if assign(connection, run_id, node, secrets[run_id], now)]


def queue(connection: Connection, run_id: str, lock: str, reason: str, now: int) -> None:
    """Starting or Preparing -> Queued: all it needs now is a node."""
    advance(connection, run_id, RunStatus.STARTING, RunStatus.PREPARING, now)
    advance(connection, run_id, RunStatus.PREPARING, RunStatus.QUEUED, now, reason=reason, lock=lock)


def assign(connection: Connection, run_id: str, node_id: str, secret: str, now: int) -> bool:
    """Write down where the attempt will run, and its key, before it is started there."""
    row = _row(connection, run_id)
    if row is None or row.status != RunStatus.QUEUED or row.key is not None or row.cancel_requested:
        return False
    if node_id:
        fleet.assign_node(connection, node_id, run_id, now)
    key = f"{run_id}/{row.attempt}"
    touch(connection, run_id, node=node_id or "local", key=key, reason="Its runner is starting.", reason_at=now)
    _add_run_token(connection, row, secret, now)
    return True


def start_again(connection: Connection, row: Row[Any], secret: str, now: int) -> bool:
    """Give an attempt that left no trace of its start a new token; False where it has moved since ``row`` was read."""
    found = _row(connection, row.id)
    if found is None or (found.status, found.key, found.report_seq) != (RunStatus.QUEUED, row.key, 0):
        return False
    _add_run_token(connection, found, secret, now)
    return True


def _add_run_token(connection: Connection, row: Row[Any], secret: str, now: int) -> None:
    """Make ``secret`` the token of the row's run: for that run only, until it has ended."""
    principal = Principal(PrincipalKind.RUN, "run:" + row.id, "run", row.workspace, row.id)
    identity.add_token(connection, secret, principal, "control", now)


def cancel(connection: Connection, run_id: str, now: int) -> bool:
    """Carry out a cancel wish as far as the database can; True: its runner must be told to stop."""
    row = _row(connection, run_id)
    if row is None or row.status in TERMINAL or row.status == RunStatus.FINALIZING:
        return False
    if row.status != RunStatus.CANCEL_REQUESTED:
        advance(connection, run_id, row.status, RunStatus.CANCEL_REQUESTED, now, reason="Its processes are ending.")
    if row.key is not None:
        return True
    _end(connection, row, RunStatus.CANCEL_REQUESTED, RunStatus.CANCELED, now)
    return False


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
    """End a run as Failed, whatever it was doing; nothing of it may be alive any more."""
    row = _row(connection, run_id)
    if row is not None and row.status not in TERMINAL:
        status = RunStatus.CANCELED if row.status == RunStatus.CANCEL_REQUESTED else RunStatus.FAILED
        _end(connection, row, row.status, status, now, error=None if status == RunStatus.CANCELED else dumps(error))


def _time_of(report: Report, batch: ReportBatch, row: Row[Any], now: int) -> int:
    """When a report's event happened, by this server's clock: as long ago as the runner says, after the run's last one.

    A runner may be away for hours, and the start of a brief script comes with its end.
    """
    if report.at is None or batch.sent_at is None:
        return now
    return min(now, max(now - (batch.sent_at - report.at), row.reason_at or 0))


def _apply(connection: Connection, row: Row[Any], report: Report, batch: Sequence[Report], now: int) -> None:
    if report.kind == ReportKind.PREPARING:
        runs.set_reason(connection, row.id, row.status, report.message, now)
    elif report.kind == ReportKind.STARTED:
        advance(connection, row.id, RunStatus.QUEUED, RunStatus.RUNNING, now, started_at=now)
    elif report.kind == ReportKind.EXITED:
        _exited(connection, row, report, now)
    elif report.kind == ReportKind.STORED:
        _stored(connection, row, report, _exit_report(connection, row, batch), now)


def _exited(connection: Connection, row: Row[Any], report: Report, now: int) -> None:
    error = None
    if report.cause != ExitCause.CANCELED and (report.exit_code != 0 or report.cause != ExitCause.SCRIPT):
        error = dumps(RunError(report.error_code or "UserError", report.message, report.details))
    changes: Dict[str, Any] = {"exit_code": report.exit_code, "error": error}
    if row.status in (RunStatus.RUNNING, RunStatus.NOT_RESPONDING):
        reason = "Its outputs are being stored."
        advance(connection, row.id, row.status, RunStatus.FINALIZING, now, reason=reason, **changes)
    else:
        touch(connection, row.id, **changes)


def _stored(connection: Connection, row: Row[Any], report: Report, exited: Optional[Report], now: int) -> None:
    """The attempt's record is complete and verified: the run ends, or goes back to the queue."""
    if exited is None:
        return
    runs.add_artifacts(connection, row, report.artifacts, "run:" + row.id, now)
    if exited.cause == ExitCause.RUNNER_LOST and not row.cancel_requested and _may_retry(connection, row):
        _requeue(connection, row, now)
        return
    changes: Dict[str, Any] = {}
    if exited.cause == ExitCause.CANCELED or (row.status == RunStatus.CANCEL_REQUESTED and exited.exit_code != 0):
        status, changes = RunStatus.CANCELED, {"error": None}
    elif exited.exit_code == 0 and exited.cause == ExitCause.SCRIPT and not report.error_code:
        status, changes = RunStatus.COMPLETED, changes
    else:
        status, changes = RunStatus.FAILED, changes
        if report.error_code:
            changes = {"error": dumps(RunError(report.error_code, report.message, report.details))}
    if status == RunStatus.CANCELED and row.status not in (RunStatus.CANCEL_REQUESTED, RunStatus.FINALIZING):
        advance(connection, row.id, row.status, RunStatus.CANCEL_REQUESTED, now)
        _end(connection, row, RunStatus.CANCEL_REQUESTED, status, now, **changes)
    else:
        _end(connection, row, row.status, status, now, **changes)


def _exit_report(connection: Connection, row: Row[Any], batch: Sequence[Report]) -> Optional[Report]:
    """How the attempt's script ended, as said in this batch or in one before it."""
    for found in (batch, runs.list_reports(connection, row.id, row.attempt, 0)):
        for report in found:
            if report.kind == ReportKind.EXITED:
                return report
    return None


def _may_retry(connection: Connection, row: Row[Any]) -> bool:
    asked = runs.get_spec(connection, row.id).max_infrastructure_retries
    allowed = RETRIES[_priority(connection, row)] if asked is None else asked
    return bool(row.retries < allowed)


def _priority(connection: Connection, row: Row[Any]) -> str:
    for cluster in fleet.list_clusters(connection, row.workspace):
        if cluster.name == row.target:
            return cluster.spec.vm_priority
    return "dedicated"


def _requeue(connection: Connection, row: Row[Any], now: int) -> None:
    reason = f"Its machine was lost in attempt {row.attempt}; it starts again."
    values = {"attempt": row.attempt + 1, "retries": row.retries + 1, "report_seq": 0, "error": None}
    advance(
        connection, row.id, row.status, RunStatus.QUEUED, now,
        reason=reason, key=None, node=None, exit_code=None, started_at=None, **values,
    )  # fmt: skip
    _free_node(connection, row, now)


def _end(connection: Connection, row: Row[Any], from_status: str, status: str, now: int, **changes: Any) -> None:
    if advance(connection, row.id, from_status, status, now, **changes):
        _free_node(connection, row, now)
        identity.expire_run_tokens(connection, row.id, now + TOKEN_GRACE_US)


def _free_node(connection: Connection, row: Row[Any], now: int) -> None:
    if row.node and row.node != "local":
        fleet.assign_node(connection, row.node, None, now)


def _row(connection: Connection, run_id: str) -> Optional[Row[Any]]:
    return runs.find_row(connection, run_id)


def explain(run: Run) -> str:
    """What the run waits for, in one sentence."""
    if run.status in TERMINAL:
        return f"Nothing: the run has ended as {run.status}."
    return run.reason or {
        RunStatus.RUNNING: "Its script runs.",
        RunStatus.FINALIZING: "Its outputs are being stored.",
    }.get(run.status, f"It is {run.status}.")
