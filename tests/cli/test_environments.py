"""Which environments of this machine may be removed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.cli.environments import _in_use, prune_environments
from runyard.errors import UserErrorException

WAITS = ["-c", "import sys; print(flush=True); sys.stdin.read()"]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("VIRTUAL_ENV", "/cache/envs/", ""), ("PATH", "/usr/bin:/cache/envs/", "/bin:/bin"), ("OTHER", "/envs/", "/bin/")],
)
def test_process_is_in_the_environment_that_its_variables_name(name: str, before: str, after: str) -> None:
    digest = os.urandom(32).hex()
    variables = {**os.environ, name: before + digest + after}
    with subprocess.Popen(
        ["python", *WAITS], executable=sys.executable, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert (digest in _in_use()) == (name != "OTHER")
    assert digest not in _in_use()


def test_process_is_in_the_environment_that_its_program_lies_in(tmp_path: Path) -> None:
    digest = os.urandom(32).hex()
    program = tmp_path / "envs" / digest / "bin" / "cat"
    program.parent.mkdir(parents=True)
    shutil.copy(shutil.which("cat") or "", program)
    with subprocess.Popen(["cat"], executable=program, stdin=subprocess.PIPE):
        assert digest in _in_use()


@pytest.mark.parametrize(
    ("days", "keep_gib", "said"),
    [
        (30, float("nan"), "--keep-gib is a number from 0 up, not nan."),
        (30, float("inf"), "--keep-gib is a number from 0 up, not inf."),
        (float("nan"), 50, "--days is a number from 0 up, not nan."),
        (-1, 50, "--days is a number from 0 up, not -1."),
    ],
)
def test_limit_that_is_no_number_removes_nothing(
    days: float, keep_gib: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    with pytest.raises(UserErrorException) as caught:
        prune_environments(days, keep_gib)
    assert caught.value.message == said
