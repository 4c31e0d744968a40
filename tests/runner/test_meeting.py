"""How a node knows what its server knows of it."""

import time
from dataclasses import replace
from pathlib import Path

from runyard.client.http import Server
from runyard.control import runs as life
from runyard.db import meetings
from runyard.protocol.meeting import NodeReport, Phase
from runyard.protocol.plan import LAUNCH_FILE, Launch
from runyard.protocol.wire import dumps, loads
from runyard.runner.folder import AttemptFolder
from runyard.runner.meeting import NodeMeeting
from tests.control.decided import assign, queue
from tests.runner.conftest import MakeAttempt
from tests.server.application import listening, now_us


def test_node_is_not_ready_before_its_server_knows_of_it(tmp_path: Path, make_attempt: MakeAttempt) -> None:
    """It would start its processes beside those of another attempt: who is not ready there is begun anew."""
    folder = make_attempt(node_count=2)
    launch = loads(Launch, (folder.path / LAUNCH_FILE).read_text())
    (folder.path / LAUNCH_FILE).write_text(dumps(replace(launch, node=1)))
    folder = AttemptFolder(str(folder.path))
    with listening(tmp_path / "server") as (application, url):
        application.add_workspace("ws")
        application.add_run("ws", "trial", node_count=2)
        write = application.parts.database.write
        write(lambda c: life.prepare(c, "trial", "It is being built.", now_us()))
        write(lambda c: queue(c, "trial", "lock", "waits", now_us()))
        assert write(lambda c: assign(c, "trial", "", "secret", now_us()))
        write(lambda c: meetings.meet(c, "ws", "trial", NodeReport(1, 0, 1, Phase.READY), now_us()))
        server = Server(lambda: url, "secret", 0.3)
        meeting = NodeMeeting(folder, server)
        while not meeting.is_at(Phase.READY, range(1)):
            time.sleep(0.01)
        assert meeting.is_told
    meeting.tell(phase=Phase.READY)
    assert (meeting.is_at(Phase.READY), meeting.is_told) == (True, False)
    meeting.close()
    server.close()
