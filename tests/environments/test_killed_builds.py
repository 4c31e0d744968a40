"""A build that is killed at any of its steps: the next one succeeds, and what counts was whole all the time."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.realise import is_realised, reap_unfinished
from runyard.protocol import wire
from runyard.protocol.environments import Lock
from tests.environments.test_layers import Builder, whole_wheel

#: Steps are what changes the disk or starts a process; the build kills itself before the one of that number.
KILLED = """
import os, signal, sys
left = int(sys.argv[1])
STEPS = {"os.mkdir", "os.link", "os.symlink", "os.rename", "os.remove", "os.rmdir", "os.chmod", "subprocess.Popen"}
def step(name, arguments):
    global left
    if name in STEPS or (name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
from runyard.environments.build import main
code = main(sys.argv[2:])
print(int(sys.argv[1]) - left)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "index").mkdir()
    for name in ("one", "two", "three"):
        whole_wheel(folder / "index", name, {f"{name}/__init__.py": f"NAME = {name!r}\n", f"{name}/more.py": ""})
    return folder


def build(place: Path, lock: Lock, before_step: int) -> "subprocess.CompletedProcess[str]":
    (place / "lock.json").write_text(wire.dumps(lock))
    files = [str(place / one) for one in ("lock.json", "root", "log", "result.json")]
    command = [sys.executable, "-c", KILLED, str(before_step), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def lock_of(place: Path, uv: str, log: Any, *names: str) -> Lock:
    return Builder(place / "index", place / "root", uv, log).lock(*names)


def assert_whole(place: Path, lock: Lock, names: tuple[str, ...]) -> None:
    interpreter = place / "root" / "envs" / lock.digest / "bin" / "python"
    code = "".join(f"import {name}, {name}.more; assert {name}.NAME == {name!r}\n" for name in names)
    assert subprocess.run([interpreter, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("is_known", [False, True])
def test_build_killed_at_any_step_harms_no_later_one(place: Path, uv: str, log: Any, is_known: bool) -> None:
    names = ("one", "two") if is_known else ("one", "three")
    lock = lock_of(place, uv, log, *names)
    root = place / "root"
    if is_known:
        # Then the packages come from layers, and the steps are other ones.
        assert build(place, lock_of(place, uv, log, *names, "three"), 10**9).returncode == 0
    done = build(place, lock, 10**9)
    count = int(done.stdout)
    assert count > 20
    for step in range(1, count + 1, max(1, count // 8)):
        shutil.rmtree(root / "envs" / lock.digest, ignore_errors=True)
        if not is_known:
            shutil.rmtree(root / "caches", ignore_errors=True)
        done = build(place, lock, step)
        assert done.returncode == -signal.SIGKILL, (step, count, done.stderr)
        if is_realised(lock, str(root)):
            assert_whole(place, lock, names)
        assert build(place, lock, 10**9).returncode == 0, json.loads((place / "result.json").read_text())
        assert_whole(place, lock, names)
    reap_unfinished(str(root))
    assert [one.name for one in (root / "envs").iterdir() if one.name.startswith(".")] == []
