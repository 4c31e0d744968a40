"""Snapshots of source folders: what goes, what does not, and that an unchanged folder is not read again."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard.errors import SnapshotException
from runyard.files.blobs import BlobStore
from runyard.files.snapshots import Snapshot, SnapshotLimits, restore_tree, take_snapshot


def _snapshot(folder: Path, **options: SnapshotLimits) -> Snapshot:
    return take_snapshot(str(folder), str(folder.parent / "cache"), **options)


def _paths(snapshot: Snapshot) -> list[str]:
    return [entry.path for entry in snapshot.tree.entries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "source"
    (found / "package").mkdir(parents=True)
    (found / "train.py").write_text("print(1)")
    (found / "package" / "run.sh").write_text("exit")
    (found / "package" / "run.sh").chmod(0o755)
    return found


def test_folder_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    snapshot = _snapshot(folder)
    store = BlobStore(tmp_path / "store")
    store.put_files([Path(path) for path in snapshot.sources.values()])
    restore_tree(store, snapshot.tree, str(tmp_path))
    (tmp_path / "back").mkdir()
    restore_tree(store, snapshot.tree, str(tmp_path / "back"))
    assert (tmp_path / "back" / "train.py").read_text() == "print(1)"
    assert os.access(tmp_path / "back" / "package" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "back" / "train.py", os.X_OK)


def test_same_folder_has_the_same_digest_and_a_change_another(folder: Path) -> None:
    first = _snapshot(folder)
    assert _snapshot(folder).digest == first.digest
    (folder / "train.py").write_text("print(2)")
    assert _snapshot(folder).digest != first.digest


def test_file_of_same_size_and_time_but_other_content_is_seen_by_its_change_time(folder: Path) -> None:
    old = time.time() - 100
    os.utime(folder / "train.py", (old, old))
    first = _snapshot(folder)
    (folder / "train.py").write_text("print(3)")
    os.utime(folder / "train.py", (old, old))
    assert _snapshot(folder).digest != first.digest


def test_unchanged_old_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _snapshot(folder)
    long_after = time.time_ns() + 10 * 10**9
    monkeypatch.setattr("runyard.files.snapshots.time.time_ns", lambda: long_after)
    _snapshot(folder)
    monkeypatch.setattr("runyard.files.snapshots.hash_file", None)
    assert _snapshot(folder).digest == before.digest


@pytest.mark.parametrize("change", ["add", "remove", "rename", "chmod", "young and gone"])
def test_remembered_tree_is_that_of_the_folder_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    long_after = time.time_ns() + 10 * 10**9
    monkeypatch.setattr("runyard.files.snapshots.time.time_ns", lambda: long_after)
    if change == "young and gone":
        (folder / "new.py").write_text("young")
        os.utime(folder / "new.py", ns=(long_after, long_after))
    for _ in range(2):
        _snapshot(folder)
    if change == "add":
        (folder / "new.py").write_text("more")
    elif change == "remove":
        (folder / "train.py").unlink()
    elif change == "rename":
        (folder / "train.py").rename(folder / "trains.py")
    elif change == "chmod":
        (folder / "train.py").chmod(0o755)
    else:
        (folder / "new.py").unlink()
    found = _snapshot(folder)
    assert found == take_snapshot(str(folder), str(folder.parent / "no cache"))


def test_damaged_cache_is_no_cache(folder: Path) -> None:
    first = _snapshot(folder)
    (folder.parent / "cache").mkdir(exist_ok=True)
    for path in (folder.parent / "cache").iterdir():
        path.write_bytes(b"\x00damaged")
    assert _snapshot(folder).digest == first.digest


def test_default_folders_are_left_out_where_there_is_no_ignore_file(folder: Path) -> None:
    for name in ("outputs", "docs", ".git", "azureml-logs"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    assert _paths(_snapshot(folder)) == ["package/run.sh", "train.py"]


def test_amlignore_wins_over_gitignore_and_the_default_list(folder: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "page.md").write_text("page")
    (folder / "data.bin").write_text("data")
    (folder / "keep.bin").write_text("keep")
    (folder / ".gitignore").write_text("*.py\n")
    (folder / ".amlignore").write_text("*.bin\n!keep.bin\n/package/\n")
    assert _paths(_snapshot(folder)) == [".amlignore", ".gitignore", "docs/page.md", "keep.bin", "train.py"]


def test_folders_of_a_run_are_left_out_unless_a_rule_takes_them_back(folder: Path) -> None:
    for name in ("outputs", "logs", "package/logs"):
        (folder / name).mkdir()
        (folder / name / "old").write_text("of an earlier run")
    assert _paths(_snapshot(folder)) == ["package/logs/old", "package/run.sh", "train.py"]
    (folder / ".gitignore").write_text("*.tmp\n")
    assert _paths(_snapshot(folder)) == [".gitignore", "package/logs/old", "package/run.sh", "train.py"]
    (folder / ".gitignore").write_text("!/logs/\n")
    assert _paths(_snapshot(folder)) == [".gitignore", "logs/old", "package/logs/old", "package/run.sh", "train.py"]


def test_ignored_folder_is_never_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret" / "deep").mkdir(parents=True)
    (folder / ".amlignore").write_text("secret/\n")
    entered: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr("runyard.files.walk.os.scandir", lambda path: entered.append(str(path)) or scandir(path))
    _snapshot(folder)
    assert entered
    assert not [path for path in entered if "secret" in path]


def test_link_inside_is_sent_as_its_file_and_one_that_leaves_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "again.py").symlink_to("train.py")
    (folder / "loop").symlink_to(folder)
    assert _paths(_snapshot(folder)) == ["again.py", "package/run.sh", "train.py"]
    (tmp_path / "outside").write_text("secret")
    (folder / "leak").symlink_to(tmp_path / "outside")
    with pytest.raises(SnapshotException, match="'leak' is a link that leaves"):
        _snapshot(folder)


class _Mounted:
    """A folder's entry as it is where another disk is mounted there, whose root has the inode of the source folder."""

    def __init__(self, entry: "os.DirEntry[str]", inode: int) -> None:
        self._entry, self._inode = entry, inode

    def __getattr__(self, name: str) -> object:
        return getattr(self._entry, name)

    def stat(self) -> os.stat_result:
        found = self._entry.stat()
        return os.stat_result((found.st_mode, self._inode, found.st_dev + 1, *found[3:]))


def test_folder_on_another_disk_is_sent_whatever_its_inode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, inode = os.scandir, folder.stat().st_ino

    @contextmanager
    def scan(path: str) -> Iterator[list[object]]:
        with scandir(path) as found:
            yield [_Mounted(one, inode) if one.is_dir() else one for one in found]

    monkeypatch.setattr("runyard.files.walk.os.scandir", scan)
    assert _paths(_snapshot(folder)) == ["package/run.sh", "train.py"]


def test_socket_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("door")
        with pytest.raises(SnapshotException, match="'door' is a device, pipe or socket"):
            _snapshot(folder)


def test_guard_names_the_largest_files(folder: Path) -> None:
    (folder / "big.bin").write_bytes(bytes(5_000))
    with pytest.raises(SnapshotException, match=r"big\.bin \(5,000 bytes\)"):
        _snapshot(folder, limits=SnapshotLimits(max_bytes=1_000))
    with pytest.raises(SnapshotException, match="3 files"):
        _snapshot(folder, limits=SnapshotLimits(max_files=2))
