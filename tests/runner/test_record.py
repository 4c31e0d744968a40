"""The record of an attempt on its way: nothing that takes long holds up the watch over the script."""

import os
import time
from pathlib import Path

import pytest

from runyard.client.http import Server
from runyard.errors import ServerUnreachableError
from runyard.protocol.plan import ReportKind
from runyard.runner.folder import AttemptFolder
from runyard.runner.outputs import QUIET_NS
from runyard.runner.record import Record
from runyard.runner.report import Reporter
from tests.runner.conftest import MakeAttempt


def _record(folder: AttemptFolder) -> Record:
    server = Server(lambda: "http://127.0.0.1:1", "secret", patience_s=0.0)
    return Record(folder, server, Reporter(folder, server))


def _write_long_ago(path: Path, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    before = time.time_ns() - 2 * QUIET_NS
    os.utime(path, ns=(before, before))


def _look_again_and_again(record: Record) -> None:
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        time.sleep(0.01)
        record.ship_outputs()


def test_large_output_is_stored_beside_the_watch(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    path = folder.work / "outputs" / "big.bin"
    _write_long_ago(path, 1 << 29)
    record = _record(folder)
    record.ship_outputs()
    assert not record.is_small(), "it is still being stored when the call has returned"
    record.ship_outputs()
    failure, artifacts = record.store(record.is_small())
    assert failure == ""
    assert {one.path: one.size_bytes for one in artifacts}["outputs/big.bin"] == 1 << 29


def test_failure_beside_the_watch_is_raised_at_the_next_look_and_then_tried_again(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    _write_long_ago(folder.work / "outputs" / "small.bin", 10)
    record = _record(folder)
    for _ in range(2):
        record.ship_outputs()
        with pytest.raises(ServerUnreachableError):
            _look_again_and_again(record)


def test_what_was_left_out_is_said_in_the_log_once(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    os.symlink("/etc/passwd", folder.work / "outputs" / "secret")
    record = _record(folder)
    for _ in range(2):
        assert record.store(record.is_small())[0] == ""
    assert folder.log.read_text().count("'outputs/secret' is a link that leaves the working folder.") == 1


def test_report_after_a_torn_line_is_found_again(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    reporter = Reporter(folder, Server(lambda: "http://127.0.0.1:1", "secret", patience_s=0.0))
    reporter.add(ReportKind.STARTED)
    with open(folder.reports, "ab") as file:
        file.write(b'{"attempt": 1, "seq')
    again = Reporter(folder, Server(lambda: "http://127.0.0.1:1", "secret", patience_s=0.0))
    again.add(ReportKind.EXITED, exit_code=0)
    assert [report.sequence for report in Reporter(folder, again._server)._reports] == [1, 2]
