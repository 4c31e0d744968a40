"""An input's files below its folder: linked or copied, each at the path that the dataset names."""

import os
from pathlib import Path

import pytest

from runyard.client.http import Server
from runyard.errors import UserErrorException
from runyard.protocol.datasets import Source
from runyard.protocol.plan import InputPlan
from runyard.protocol.runs import InputMode
from runyard.runner.folder import AttemptFolder
from runyard.runner.inputs import bind_inputs
from tests.runner.conftest import MakeAttempt


def _bind(folder: AttemptFolder) -> Path:
    server = Server(lambda: "http://127.0.0.1:1", "secret")
    found = bind_inputs(folder, server, lambda _message: None)
    return Path(found["data"])


def _write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def _files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def _plan(*sources: Source, mode: str = InputMode.MOUNT, path: str | None = None) -> InputPlan:
    return InputPlan("data", mode, sources, path)


@pytest.mark.parametrize("mode", [InputMode.MOUNT, InputMode.DOWNLOAD])
def test_files_of_one_name_from_two_folders_stay_two(make_attempt: MakeAttempt, tmp_path: Path, mode: str) -> None:
    first, second = _write(tmp_path / "in/a/x.csv", "a"), _write(tmp_path / "in/b/x.csv", "b")
    root = _bind(make_attempt(inputs=(_plan(Source(file=first), Source(file=second), mode=mode),)))
    assert _files(root) == {"a/x.csv": "a", "b/x.csv": "b"}
    assert os.path.islink(root / "a" / "x.csv") == (mode == InputMode.MOUNT)


def test_file_that_two_sources_hold_is_there_once(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    file = _write(tmp_path / "in/x.csv", "x")
    root = _bind(make_attempt(inputs=(_plan(Source(file=str(tmp_path / "in")), Source(file=file)),)))
    assert _files(root) == {"in/x.csv": "x"}


def test_source_that_stands_alone_gives_its_own_paths(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    _write(tmp_path / "in/deep/x.csv", "x")
    root = _bind(make_attempt(inputs=(_plan(Source(file=str(tmp_path / "in"))),)))
    assert _files(root) == {"deep/x.csv": "x"}


def test_pattern_gives_paths_below_its_fixed_part(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    _write(tmp_path / "in/2020/x.csv", "x")
    _write(tmp_path / "in/2020/x.txt", "no")
    root = _bind(make_attempt(inputs=(_plan(Source(file=str(tmp_path / "in/*/*.csv"))),)))
    assert _files(root) == {"2020/x.csv": "x"}


def test_input_never_takes_the_place_of_a_file_of_the_source_folder(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    file = _write(tmp_path / "in/x.csv", "input")
    folder = make_attempt(inputs=(_plan(Source(file=file), path="data"),))
    _write(folder.work / "data" / "x.csv", "source")
    with pytest.raises(UserErrorException, match="a file of the source folder"):
        _bind(folder)
    assert (folder.work / "data" / "x.csv").read_text() == "source"


def test_absolute_path_on_compute_gets_a_place_of_its_own(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    file = _write(tmp_path / "in/x.csv", "x")
    folder = make_attempt(inputs=(_plan(Source(file=file), path="/tmp/data"),))
    assert _bind(folder) == folder.inputs / "data" / "tmp" / "data"


@pytest.mark.parametrize("path", ["../out", "a/../../out", "a\0b"])
def test_path_on_compute_never_leaves_the_working_folder(make_attempt: MakeAttempt, tmp_path: Path, path: str) -> None:
    file = _write(tmp_path / "in/x.csv", "x")
    with pytest.raises(UserErrorException):
        _bind(make_attempt(inputs=(_plan(Source(file=file), path=path),)))


def test_input_that_matches_nothing_is_named(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match=r"Input 'data' is empty: nothing matches .*gone"):
        _bind(make_attempt(inputs=(_plan(Source(file=str(tmp_path / "gone"))),)))
