"""One runner an attempt, whatever starts a second."""

import subprocess
import sys
from pathlib import Path

import pytest

from runyard.runner.folder import claim

SECOND = "import sys; from runyard.runner.folder import claim; claim(sys.argv[1])"


def test_second_runner_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", SECOND + "; print('mine', flush=True); sys.stdin.read()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"mine\n"
    record = (tmp_path / "runner.json").read_text()
    with pytest.raises(BlockingIOError):
        claim(str(tmp_path))
    assert (tmp_path / "runner.json").read_text() == record
    first.kill()
    first.communicate()
    done = subprocess.run([sys.executable, "-c", SECOND, str(tmp_path)], check=False)
    assert done.returncode == 0, "a lock ends with its process"
