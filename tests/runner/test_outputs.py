"""Which files of an attempt become its record, under which names."""

import os

import pytest

from runyard.client.http import Server
from runyard.errors import ServerUnreachableError
from runyard.files.blobs import BlobStore
from runyard.protocol.trees import PART_BYTES_MAX, check_path
from runyard.runner.folder import AttemptFolder
from runyard.runner.outputs import DRIVER_LOG, QUIET_NS, STD_LOG, Outputs
from tests.runner.conftest import MakeAttempt


def _outputs(folder: AttemptFolder) -> Outputs:
    return Outputs(folder, Server(lambda: "http://127.0.0.1:1", "secret", 0.2))


def _store(folder: AttemptFolder) -> BlobStore:
    found = folder.store()
    assert found is not None
    return found


def test_files_of_a_small_record_are_stored_and_returned(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    (folder.work / "outputs" / "model").mkdir()
    (folder.work / "outputs" / "model" / "w.bin").write_bytes(b"weights")
    (folder.work / "elsewhere.txt").write_text("not part of the record")
    (one,) = _outputs(folder).store_files()
    assert (one.path, one.size_bytes) == ("outputs/model/w.bin", 7)
    assert _store(folder).read(one.digest) == b"weights"


def test_log_is_stored_under_both_of_its_names(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    folder.log.write_text("said\n")
    found = _outputs(folder).store_log()
    assert [one.path for one in found] == [STD_LOG, DRIVER_LOG]
    assert {_store(folder).read(one.digest) for one in found} == {b"said\n"}


def test_link_inside_is_followed_and_link_out_is_left_out_and_said(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    outputs = folder.work / "outputs"
    (outputs / "model.bin").write_bytes(b"1")
    os.symlink("model.bin", outputs / "latest.bin")
    os.symlink("/etc/passwd", outputs / "secret.txt")
    os.symlink("nowhere", outputs / "dangling")
    os.mkfifo(outputs / "pipe")
    made = _outputs(folder)
    assert sorted(one.path for one in made.store_files()) == ["outputs/latest.bin", "outputs/model.bin"]
    assert sorted(made.notices) == [
        "'outputs/dangling' is a link that leaves the working folder.",
        "'outputs/secret.txt' is a link that leaves the working folder.",
    ]


def test_names_in_the_record_are_legal_and_differ(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    odd = [b"a\\b", b"a%5Cb", b"\xff", b"\xfe", b"%FF", b"line\nbreak", "ü".encode() * 127]
    odd += [b"%" * 200 + b"1.bin", b"%" * 200 + b"2.bin"]
    for name in odd:
        with open(os.path.join(os.fsencode(folder.work / "outputs"), name), "wb") as file:
            file.write(name)
    found = [one.path for one in _outputs(folder).store_files()]
    assert len(set(found)) == len(odd)
    for path in found:
        assert check_path(path) == path
        assert len(path.split("/")[1].encode()) <= PART_BYTES_MAX
    assert sum(path.endswith(".bin") for path in found) == 2


def test_file_that_is_still_written_is_left_for_later(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    (folder.work / "outputs" / "now.txt").write_text("half a")
    made = _outputs(folder)
    assert made.ship_changed() == 0
    assert [one.path for one in made.store_files()] == ["outputs/now.txt"]


def test_file_whose_record_failed_is_tried_again(make_attempt: MakeAttempt) -> None:
    folder = make_attempt()
    path = folder.work / "outputs" / "old.txt"
    path.write_text("whole")
    before = path.stat().st_mtime_ns - 2 * QUIET_NS
    os.utime(path, ns=(before, before))
    made = _outputs(folder)
    for _ in range(2):
        with pytest.raises(ServerUnreachableError):
            made.ship_changed()
