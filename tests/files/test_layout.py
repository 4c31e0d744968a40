"""Files that are replaced as a whole, also in a folder that is somebody else's."""

import os
from pathlib import Path

import pytest

from runyard.files.layout import write_atomically


def test_link_in_place_of_the_new_file_is_given_no_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job does it that watches its folder."""
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    folder.mkdir()
    victim.write_text("the server's")
    victim.chmod(0o600)
    give_mode = os.fchmod

    def put_link_first(handle: int, mode: int) -> None:
        (new,) = folder.iterdir()
        new.unlink()
        new.symlink_to(victim)
        give_mode(handle, mode)

    monkeypatch.setattr(os, "fchmod", put_link_first)
    write_atomically(folder / "file", b"text")
    assert victim.stat().st_mode & 0o777 == 0o600
    assert victim.read_text() == "the server's"
