"""Local sources of a dataset: files, folders, patterns."""

import os
from pathlib import Path

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
