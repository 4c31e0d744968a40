"""A cache on a full disk gives back what it can; what fits never is refused in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="a disk of its own needs a mount namespace",
)


def test_cache_on_a_full_disk_makes_room_for_what_is_needed(tmp_path: Path) -> None:
    words = ["unshare", "-m", sys.executable, str(Path(__file__).with_name("full_cache.py")), str(tmp_path)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived"
