"""Spools and logs on their way: the server's word alone moves them on, whatever it says."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.client import shipper as module
from runyard.client.shipper import LogShipper, MetricsShipper
from runyard.client.spool import SpoolWriter, read_mark
from runyard.errors import ConflictError, ServerUnreachableError, UserErrorException
from runyard.protocol.metrics import decode_batch, iterate


class Taker:
    """A server's side of metrics: keeps each value once, as the real one's rule is; may be away."""

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self.values: list[object] = []
        self.requests = 0
        self.failure: Exception | None = None
        #: Takes the batch and breaks off before its reply.
        self.loses_reply = False

    def __call__(self, body: bytes) -> int:
        self.requests += 1
        if self.failure is not None:
            raise self.failure
        batch = decode_batch(body)
        mark = self.marks.get(batch.writer, 0)
        if batch.first == mark + 1:
            rows = [(one.first_sequence + i, v) for one in batch.columns for i, (_, _, v) in enumerate(iterate(one))]
            self.values.extend(value for _, value in rows)
            self.marks[batch.writer] = mark = batch.last
        if self.loses_reply:
            self.loses_reply = False
            raise ServerUnreachableError("The server broke off.")
        return mark


@pytest.fixture
def writer(tmp_path: Path) -> SpoolWriter:
    return SpoolWriter(str(tmp_path))


def test_values_are_sent_once_and_in_order(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    for i in range(10):
        writer.log("m", float(i))
        assert shipper.ship() == 1
    assert shipper.ship() == 0
    assert taker.values == [float(i) for i in range(10)]
    assert read_mark(str(tmp_path), writer.writer) == writer.sizes()[writer.writer]


def test_nothing_new_makes_no_request(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    writer.log("m", 1.0)
    shipper.ship()
    requests = taker.requests
    shipper.ship()
    assert taker.requests == requests


def test_lost_reply_counts_nothing_twice(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    for i in range(5):
        writer.log("m", float(i))
    taker.loses_reply = True
    with pytest.raises(ServerUnreachableError):
        shipper.ship()
    writer.log("m", 5.0)
    shipper.ship()
    assert taker.values == [float(i) for i in range(6)]


def test_new_runner_goes_on_from_the_server_s_mark(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    for i in range(5):
        writer.log("m", float(i))
    MetricsShipper(str(tmp_path), 1, taker).ship()
    for i in range(5, 8):
        writer.log("m" if i % 2 else "n", float(i))
    MetricsShipper(str(tmp_path), 1, taker).ship()
    assert taker.values == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 6.0]


def test_server_that_lost_its_last_batches_gets_them_again(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    for i in range(4):
        writer.log("m", float(i))
    shipper.ship()
    taker.marks[writer.writer] = 2
    del taker.values[2:]
    writer.log("m", 4.0)
    shipper.ship()
    assert taker.values == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_long_spool_goes_in_several_requests(
    tmp_path: Path, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", 500)
    taker = Taker()
    for i in range(100):
        writer.log("m", float(i))
    assert MetricsShipper(str(tmp_path), 1, taker).ship() == 100
    assert taker.requests > 5
    assert taker.values == [float(i) for i in range(100)]


def test_value_larger_than_a_request_s_share_gets_through(
    tmp_path: Path, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", 1_000)
    taker = Taker()
    writer.log("m", "x" * 5_000)
    writer.log("m", 1.0)
    MetricsShipper(str(tmp_path), 1, taker).ship()
    assert taker.values == ["x" * 5_000, 1.0]


def test_largest_text_that_can_be_logged_can_be_shipped(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    writer.log("m", "x" * ((1 << 20) - 2))
    writer.log("m", 1.0)
    MetricsShipper(str(tmp_path), 1, taker).ship()
    assert len(taker.values) == 2


def test_refused_values_are_remembered_and_other_writers_go_on(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    taker.failure = UserErrorException("Too many names.")
    writer.log("m", 1.0)
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    assert shipper.ship() == 0
    assert shipper.refused == {writer.writer: "Too many names."}
    taker.failure = None
    other = SpoolWriter(str(tmp_path))
    other.log("m", 2.0)
    shipper.ship()
    assert taker.values == [2.0]


@pytest.mark.parametrize("what", ["refused", "damaged"])
def test_nobody_waits_for_values_that_the_server_will_never_have(
    tmp_path: Path, writer: SpoolWriter, what: str
) -> None:
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    writer.log("m", 1.0)
    if what == "refused":
        taker.failure = UserErrorException("Too many names.")
    else:
        (path,) = tmp_path.glob("*.spool")
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    for i in range(3):
        writer.log("m", float(i))
        shipper.ship()
        size = writer.sizes()[writer.writer]
        assert shipper.shipped_bytes(writer.writer) == read_mark(str(tmp_path), writer.writer) == size
    assert (shipper.refused or shipper.damaged).keys() == {writer.writer}
    assert taker.requests == (what == "refused")


def test_attempt_that_is_over_is_told_to_the_runner(tmp_path: Path, writer: SpoolWriter) -> None:
    taker = Taker()
    taker.failure = ConflictError("Attempt 1 is over.")
    writer.log("m", 1.0)
    with pytest.raises(ConflictError):
        MetricsShipper(str(tmp_path), 1, taker).ship()


def test_damaged_spool_is_told_once_what_came_before_it_was_sent(tmp_path: Path, writer: SpoolWriter) -> None:
    writer.log("m", 1.0)
    writer.log("m", 2.0)
    (path,) = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    shipper.ship()
    shipper.ship()
    assert taker.values == [1.0]
    assert list(shipper.damaged) == [writer.writer]


class LogTaker:
    """A server's side of logs: keeps what continues its file, answers with what it has."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, _name: str, offset: int, data: bytes) -> int:
        if offset <= len(self.data):
            self.data += data[len(self.data) - offset :]
        return len(self.data)


def test_growing_log_is_sent_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 7)
    taker, path = LogTaker(), tmp_path / "log.txt"
    shipper = LogShipper(taker)
    assert shipper.ship("log.txt", str(path)) == 0
    for i in range(5):
        with open(path, "ab") as file:
            file.write(f"line {i} \xff\n".encode("latin-1"))
        shipper.ship("log.txt", str(path))
    assert taker.data == path.read_bytes()


def test_new_runner_sends_no_byte_of_a_log_twice(tmp_path: Path) -> None:
    taker, path = LogTaker(), tmp_path / "log.txt"
    path.write_bytes(b"first\n")
    LogShipper(taker).ship("log.txt", str(path))
    path.write_bytes(b"first\nsecond\n")
    LogShipper(taker).ship("log.txt", str(path))
    assert taker.data == b"first\nsecond\n"


def test_server_that_lost_the_end_of_a_log_gets_it_again(tmp_path: Path) -> None:
    taker, path = LogTaker(), tmp_path / "log.txt"
    shipper = LogShipper(taker)
    path.write_bytes(b"first\n")
    shipper.ship("log.txt", str(path))
    taker.data = b"fir"
    path.write_bytes(b"first\nsecond\n")
    shipper.ship("log.txt", str(path))
    assert taker.data == b"first\nsecond\n"


def test_log_that_became_a_pipe_or_a_link_is_not_waited_for(tmp_path: Path) -> None:
    """It was a file when it was listed; the script may have put anything in its place since."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/etc/hostname", tmp_path / "link")
    sent: list[bytes] = []

    def send(_name: str, offset: int, data: bytes) -> int:
        sent.append(data)
        return offset + len(data)

    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=r"not seekable|symbolic links"):
            LogShipper(send).ship("logs/" + name, str(tmp_path / name))
    assert sent == []


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: os.symlink("victim", path), os.mkdir])
def test_nothing_that_a_job_puts_beside_its_spools_is_followed_or_waited_for(
    tmp_path: Path, writer: SpoolWriter, put: Callable[[str], None]
) -> None:
    """Whoever ships may read and write more than the job."""
    (tmp_path / "victim").write_text("the server's")
    taker = Taker()
    shipper = MetricsShipper(str(tmp_path), 1, taker)
    writer.log("loss", 0.5)
    put(str(tmp_path / "other.spool"))
    put(str(tmp_path / f"{writer.writer}.mark.new"))
    assert shipper.ship() == 1
    shipper.sync()
    assert taker.values == [0.5]
    assert shipper.damaged == {}
    assert (tmp_path / "victim").read_text() == "the server's"


@pytest.mark.parametrize("kind", ["log", "spool"])
def test_file_that_has_not_grown_is_not_opened(tmp_path: Path, kind: str) -> None:
    opened: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened.append(str(arguments[0]))

    path = tmp_path / "log.txt"
    path.write_text("one\n")
    log, spools = LogShipper(LogTaker()), MetricsShipper(str(tmp_path), 1, Taker())
    writer = SpoolWriter(str(tmp_path))
    writer.log("loss", 1.0)
    ship = spools.ship if kind == "spool" else lambda: log.ship("log.txt", str(path))
    sys.addaudithook(note)
    assert ship() > 0
    count = len(opened)
    assert count > 0
    assert (ship(), len(opened)) == (0, count)
    writer.close()
