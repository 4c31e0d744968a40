"""The end of a log."""

from pathlib import Path

from runyard.files.tails import tail_of


def test_tail_shows_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail_of(str(path), 2, 100) == ""
    path.write_bytes(b"one\ntwo\n\0three\xff\n")
    assert tail_of(str(path), 2, 100) == "two\nthree\ufffd"


def test_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000 + b"\nlast\n")
    assert tail_of(str(path), 20, 8) == "xx\nlast"
