"""What mpirun runs for each rank becomes that rank: its texts reach it as they are, and its life can be seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.runner.rank import COMMAND, has_ended, make_life, write_rank

TELLS = (
    "import json, os, sys;"
    "print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['LIST'], dict(os.environ)]), flush=True);"
    "print('to stderr', file=sys.stderr)"
)
WAITS = "import sys; print('up', flush=True); sys.stdin.read()"

HOSTILE = [
    "", " ", "a b", "$(touch made)", "`touch made`", "'; touch made; '", '"', "\\", "\\n", "one\ntwo", "\n", "ends\n",
    "\n\n.\n+", "*", "~", "-n", "é", os.fsdecode(b"\xff\xfe"), "tab\there", "a=b",
]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("ranks", "launches", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def begin(folder: Path, code: str, *arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
    """Rank 3, begun as mpirun does it."""
    command = [sys.executable, "-c", code, *arguments]
    write_rank(folder / "ranks", 3, folder / "log of 3.txt", folder / "work", variables, command)
    make_life(folder / "launches", 3)
    told = {"RUNYARD_RANKS": str(folder / "ranks"), "RUNYARD_LAUNCHES": str(folder / "launches")}
    return subprocess.Popen(
        COMMAND, env={"OMPI_COMM_WORLD_RANK": "3", "PATH": os.defpath, "LIST": "old", **told}, stdin=subprocess.PIPE
    )


def test_texts_reach_a_rank_as_they_are(folders: Path) -> None:
    with begin(folders, TELLS, *HOSTILE, LIST="\n".join(HOSTILE), NEW="x") as process:
        assert process.wait(30) == 0
    told, other = (folders / "log of 3.txt").read_text().splitlines()
    arguments, work, text, variables = json.loads(told)
    assert arguments == HOSTILE
    assert Path(work) == folders / "work"
    assert text == "\n".join(HOSTILE)
    assert variables["NEW"] == "x"
    assert {name for name in variables if name.startswith("RUNYARD_")} == {"RUNYARD_LAUNCHES"}
    assert other == "to stderr"
    assert not list(folders.rglob("made"))


def test_rank_whose_program_is_not_there_says_so(folders: Path) -> None:
    write_rank(folders / "ranks", 3, folders / "log", folders / "work", {}, [str(folders / "nothing here")])
    make_life(folders / "launches", 3)
    told = {"RUNYARD_RANKS": str(folders / "ranks"), "RUNYARD_LAUNCHES": str(folders / "launches")}
    done = subprocess.run(COMMAND, env={"OMPI_COMM_WORLD_RANK": "3", **told}, timeout=30)
    assert done.returncode == 127
    assert "nothing here" in (folders / "log").read_text()


def test_rank_is_seen_to_live_until_it_has_ended(folders: Path) -> None:
    launches, log = folders / "launches", folders / "log of 3.txt"
    assert not has_ended(launches, 3), "it has not begun"
    with begin(folders, WAITS) as process:
        assert process.stdin is not None
        while not log.exists() or not log.read_text():
            assert process.poll() is None
        assert not has_ended(launches, 3)
        assert not has_ended(launches, 3), "to look changes nothing"
        process.stdin.close()
        assert process.wait(30) == 0
    assert has_ended(launches, 3)


def test_what_a_job_puts_in_the_place_of_a_life_is_not_followed(folders: Path) -> None:
    launches = folders / "launches"
    (launches / "0.begun").touch()
    (launches / "0.rank").symlink_to("/dev/zero")
    assert not has_ended(launches, 0)
    (launches / "0.rank").unlink()
    (launches / "0.rank").mkdir()
    assert not has_ended(launches, 0)
