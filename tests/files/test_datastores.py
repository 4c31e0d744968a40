"""A datastore that is a folder: what is listed can be read, whatever a job has left there."""

import os
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", ["", "data", "data/*", "data/a.txt"])
def test_paths_are_told_below_a_root_that_is_reached_by_a_link(root: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "link").symlink_to(root)
    assert [one.path for one in FolderDatastore(tmp_path / "link").list(path)] == ["data/a.txt"]
