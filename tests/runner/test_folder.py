"""One runner an attempt, whatever starts a second."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runyard.protocol.plan import LAUNCH_FILE
from runyard.runner.folder import claim, leave

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


def test_process_that_has_left_may_claim_again(tmp_path: Path) -> None:
    for name in ("1", "2"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / LAUNCH_FILE).touch()
        lock = claim(str(folder))
        leave(str(folder))
        assert os.listdir(folder) == ["runner.lock"], "nobody signals or recovers it"
        os.close(lock)


def test_runner_leaves_only_after_a_signal_that_is_on_its_way(tmp_path: Path) -> None:
    (tmp_path / LAUNCH_FILE).touch()
    os.close(claim(str(tmp_path)))
    leaving = threading.Thread(target=leave, args=(str(tmp_path),))
    with open(tmp_path / "runner.json") as sender:
        fcntl.flock(sender, fcntl.LOCK_SH)
        leaving.start()
        leaving.join(0.1)
        assert leaving.is_alive()
    leaving.join(10)
    assert not (tmp_path / "runner.json").exists()
