"""Local sources of a dataset: files, folders, patterns."""

import os
from pathlib import Path

import pytest

from runyard.files.listing import list_source


def test_brackets_in_a_name_are_part_of_it_where_the_path_exists(tmp_path: Path) -> None:
    (tmp_path / "v[1]").mkdir()
    (tmp_path / "v[1]" / "x.csv").write_text("x")
    assert list_source(str(tmp_path / "v[1]" / "x.csv")) == [(str(tmp_path / "v[1]" / "x.csv"), "x.csv")]
    assert list_source(str(tmp_path / "v[1]")) == [(str(tmp_path / "v[1]" / "x.csv"), "x.csv")]
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "y.csv").write_text("y")
    assert list_source(str(tmp_path / "v[12]" / "*")) == [(str(tmp_path / "v1" / "y.csv"), "v1/y.csv")]


def test_links_that_lead_nowhere_and_pipes_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("file")
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "broken").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe")
    assert [relative for _, relative in list_source(str(tmp_path))] == ["file", "good"]


@pytest.mark.parametrize("pattern", ["", "**"])
def test_files_come_by_their_path_in_whatever_order_the_disk_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    paths = ["a.txt", "a/x", "a/y", "b/deep/z", "b/x", "c", "d/x"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    listed = os.scandir

    class Backwards:
        """A folder's entries from the last to the first."""

        def __init__(self, *folder: str) -> None:
            with listed(*folder) as found:
                self._entries = iter(sorted(found, key=lambda one: one.name, reverse=True))

        def __enter__(self) -> "Backwards":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> "Backwards":
            return self

        def __next__(self) -> "os.DirEntry[str]":
            return next(self._entries)

        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert [relative for _, relative in list_source(str(tmp_path / pattern))] == paths
