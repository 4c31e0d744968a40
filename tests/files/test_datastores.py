"""A datastore that is a folder: what is listed can be read, whatever a job has left there."""

import os
from pathlib import Path

import pytest

from runyard.errors import NotFoundError
from runyard.files.datastores import FolderDatastore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "store"
    (found / "data").mkdir(parents=True)
    (found / "data" / "a.txt").write_text("a")
    return found


@pytest.mark.parametrize("path", ["", "data", "data/*", "**/*"])
def test_link_that_leads_nowhere_or_out_is_not_listed(root: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (root / "data" / "again.txt").symlink_to("a.txt")
    (root / "data" / "broken.txt").symlink_to("absent.txt")
    (root / "data" / "leak.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(root / "data" / "pipe")
    assert [one.path for one in FolderDatastore(root).list(path)] == ["data/a.txt", "data/again.txt"]


@pytest.mark.parametrize("path", ["", "data", "data/*"])
def test_name_that_is_no_text_hides_no_other_file(root: Path, path: str) -> None:
    (root / "data" / os.fsdecode(b"\xff")).write_text("odd")
    assert [one.path for one in FolderDatastore(root).list(path)] == ["data/a.txt"]


@pytest.mark.parametrize("path", ["", "data", "data/*", "data/a.txt"])
def test_paths_are_told_below_a_root_that_is_reached_by_a_link(root: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "link").symlink_to(root)
    assert [one.path for one in FolderDatastore(tmp_path / "link").list(path)] == ["data/a.txt"]


def test_brackets_in_a_name_are_part_of_it_where_a_file_or_folder_has_it(root: Path) -> None:
    (root / "data" / "part[1].csv").write_text("brackets")
    (root / "data" / "part1.csv").write_text("none")
    (root / "v[2]").mkdir()
    (root / "v[2]" / "x.csv").write_text("x")
    store = FolderDatastore(root, is_own=False)
    assert [one.path for one in store.list("data/part[1].csv")] == ["data/part[1].csv"]
    assert [one.path for one in store.list("v[2]")] == ["v[2]/x.csv"]
    assert [one.path for one in store.list("data/part[1]*")] == ["data/part1.csv"]


def test_only_a_folder_of_the_servers_own_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"The datastore's folder '.*/share' is not there"):
        FolderDatastore(tmp_path / "share", is_own=False)
    assert not (tmp_path / "share").exists()
    assert FolderDatastore(tmp_path / "own" / "store", is_own=True).list("") == []
    assert (tmp_path / "own" / "store").is_dir()
