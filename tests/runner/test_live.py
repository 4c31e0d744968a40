"""Files of a script that still runs are read from where they are, wherever the script would lead their reader."""

import os
from pathlib import Path

from runyard.runner.live import opened_files


def found(root: Path, *tops: str) -> dict[str, bytes]:
    return {path: os.pread(handle, 100, 0) for path, handle in opened_files(str(root), *tops)}


def test_every_regular_file_is_opened_in_order(tmp_path: Path) -> None:
    for name in ("b/deep/x", "a", "b/y"):
        (tmp_path / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "logs" / name).write_text(name)
    (tmp_path / "outputs").mkdir()
    names = ["logs/a", "logs/b/deep/x", "logs/b/y"]
    assert list(found(tmp_path, "outputs", "logs", "neither")) == names
    assert found(tmp_path, "logs")["logs/b/deep/x"] == b"b/deep/x"


def test_links_and_pipes_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the server's")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "logs" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "logs" / "pipe")
    assert found(tmp_path, "logs") == {}
    (tmp_path / "outputs").symlink_to(tmp_path)
    assert found(tmp_path, "outputs") == {}


def test_folder_that_becomes_a_link_on_the_way_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z").write_text("the server's")
    for name in ("a", "b"):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "z").write_text("mine")
    seen = {}
    for path, handle in opened_files(str(tmp_path), "logs"):
        seen[path] = os.pread(handle, 100, 0)
        if path == "logs/a/z":
            (tmp_path / "logs" / "b").rename(tmp_path / "kept")
            (tmp_path / "logs" / "b").symlink_to(tmp_path / "elsewhere")
    assert seen == {"logs/a/z": b"mine"}


def test_descriptors_are_closed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(5):
        (tmp_path / "logs" / str(number)).write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    assert len(found(tmp_path, "logs")) == 5
    for _ in opened_files(str(tmp_path), "logs"):
        break
    assert len(os.listdir("/proc/self/fd")) == before
