"""Runs the kit's own suite under every Python from 3.7 to 3.13 that this host has; CI must have 3.7."""

import os
import subprocess
from pathlib import Path

import pytest

from runyard.environments.kit import Kit, compile_kit, make_kit
from runyard.environments.pythons import find_minor

SUITE = Path(__file__).parent / "suite"
MINORS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")

SUITE_LIMIT_S = 100


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(str(tmp_path_factory.mktemp("kits")))


@pytest.mark.parametrize("minor", MINORS)
def test_kit_works_on_this_python(minor: str, kit: Kit) -> None:
    interpreter = find_minor(minor)
    if interpreter is None:
        if minor == MINORS[0] and os.environ.get("CI") == "true":
            pytest.fail(f"CI must have Python {minor}: jobs of old pins run on it.")
        pytest.skip(f"This host has no Python {minor}.")
    compile_kit(kit, interpreter.path)
    command = [interpreter.path, "-S", "-W", "error", "-m", "unittest", "discover", "-s", str(SUITE), "-p", "*.py"]
    environment = {"PATH": os.defpath, "PYTHONPATH": kit.folder, "LANG": "C.UTF-8"}
    done = subprocess.run(
        command, cwd=kit.folder, env=environment, capture_output=True, text=True, timeout=SUITE_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\nOK" in done.stderr
