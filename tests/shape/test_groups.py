"""Tests that share a server or a cluster run one after the other."""

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_of_a_group(number, worker_id):
    open(f"{number}-{worker_id}", "w").close()
"""


def test_a_group_stays_on_one_worker(tmp_path: Path) -> None:
    """A pytest that pytest-xdist does not know yet would start each group's server and cluster once a worker."""
    (tmp_path / "test_group.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = [path.name.split("-") for path in tmp_path.glob("*-gw*")]
    assert len(found) == 8
    assert len({worker for _, worker in found}) == 1
