"""What the nodes of an attempt have told each other; kept, so that a server that starts again knows who has ended."""

from dataclasses import replace
from typing import Any, List

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db import runs
from runyard.db.tables import node_reports
from runyard.errors import ConflictError, UserErrorException
from runyard.protocol.meeting import PHASES, Meeting, NodeReport, Phase
from runyard.protocol.runs import TERMINAL
from runyard.protocol.wire import dumps, loads

#: Largest report of a node, bytes: its end with a log's tail, and mpirun's requests for some hundred others.
REPORT_BYTES_MAX = 512 << 10
#: More changes than a node could ever have.
REVISION_MAX = 1 << 31


def meet(connection: Connection, workspace: str, run_id: str, report: NodeReport, now: int) -> bool:
    """Keep a node's report, if it is newer than the one that is known; True where it was.

    ConflictError for an attempt, or a run, that is over; UserErrorException for a node that the run has not.
    """
    row = runs.get_row(connection, workspace, run_id)
    check_attempt(row, report)
    known = next((one for one in list_nodes(connection, run_id, report.attempt) if one.node == report.node), None)
    if known is not None and known.revision >= report.revision:
        return False
    if known is not None and PHASES.index(known.phase) > PHASES.index(report.phase):
        raise UserErrorException(f"Node {report.node} is {known.phase} already, and so not {report.phase} any more.")
    if known is not None and known.ended_at is not None:
        report = replace(report, ended_at=known.ended_at)
    elif PHASES.index(report.phase) >= PHASES.index(Phase.ENDED):
        report = replace(report, ended_at=now)
    statement = upsert(node_reports).values(
        run_id=run_id, attempt=report.attempt, node=report.node, revision=report.revision, body=dumps(report),
        workspace=workspace, created_by="run:" + run_id, created_at=now,
    )  # fmt: skip
    new = {"revision": statement.excluded.revision, "body": statement.excluded.body}
    connection.execute(statement.on_conflict_do_update(index_elements=["run_id", "attempt", "node"], set_=new))
    return True


def check_attempt(row: Row[Any], report: NodeReport) -> None:
    """Is it one of a node that this attempt has, while that is under way?"""
    if row.attempt != report.attempt or row.status in TERMINAL:
        raise ConflictError(f"Attempt {report.attempt} of run {row.id} is over.")
    if not 0 <= report.revision <= REVISION_MAX or len(dumps(report)) > REPORT_BYTES_MAX:
        raise UserErrorException(
            f"A node's report has a revision from 0 to {REVISION_MAX}, and {REPORT_BYTES_MAX} bytes."
        )
    if not 0 <= report.node < row.node_count or report.phase not in PHASES:
        raise UserErrorException(
            f"Run {row.id} has {row.node_count} nodes, none of number {report.node} that is {report.phase[:20]!r}."
        )


def get_meeting(connection: Connection, workspace: str, run_id: str, attempt: int) -> Meeting:
    """All that the attempt's nodes have said."""
    row = runs.get_row(connection, workspace, run_id)
    nodes = tuple(list_nodes(connection, run_id, attempt))
    return Meeting(nodes, sum(one.revision for one in nodes), row.cancel_requested)


def list_nodes(connection: Connection, run_id: str, attempt: int) -> List[NodeReport]:
    """The attempt's nodes that have reported, by number."""
    rows = connection.execute(
        select(node_reports.c.body)
        .where(node_reports.c.run_id == run_id, node_reports.c.attempt == attempt)
        .order_by(node_reports.c.node)
    )
    return [loads(NodeReport, row.body) for row in rows]
