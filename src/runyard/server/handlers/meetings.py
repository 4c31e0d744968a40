"""Where the runners of one attempt meet: each says how it is, and waits for news of the others."""

from typing import Tuple

from runyard.db import meetings, runs
from runyard.protocol.meeting import Meeting, NodeReport
from runyard.server.call import Call
from runyard.server.threads import in_thread
from runyard.server.waiting import wait_until

#: Longest wait of one request, seconds; the runner asks again.
WAIT_MAX_S = 60


async def meet(call: Call) -> Meeting:
    """Keep the node's report; the meeting as soon as it is newer than ``after``, or after ``wait_s`` seconds."""
    report: NodeReport = call.body
    call.parts.loop.hear(call.path["run_id"], report, call.now)
    if await in_thread(_is_news, call):
        is_new = await call.parts.database.write_soon(
            lambda connection: meetings.meet(connection, call.workspace, call.path["run_id"], report, call.now)
        )
        if is_new:
            call.parts.events.notify(_topic(call))
    wait_s = call.integer("wait_s", 0, 0, WAIT_MAX_S)
    found: Meeting = await wait_until(call, _look, wait_s, _topic(call))
    return found


def _is_news(call: Call) -> bool:
    """Is the report one that is not kept yet? Also refuses what is not of this attempt."""
    report: NodeReport = call.body
    with call.parts.database.read() as connection:
        meetings.check_attempt(runs.get_row(connection, call.workspace, call.path["run_id"]), report)
        known = meetings.list_nodes(connection, call.path["run_id"], report.attempt)
    return all(one.node != report.node or one.revision < report.revision for one in known)


def _look(call: Call) -> Tuple[Meeting, bool]:
    with call.parts.database.read() as connection:
        found = meetings.get_meeting(connection, call.workspace, call.path["run_id"], call.body.attempt)
    return found, found.revision > call.integer("after", 0)


def _topic(call: Call) -> str:
    return call.path["run_id"] + "/nodes"
