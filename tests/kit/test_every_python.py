"""Runs the kit's own suite under every Python from 3.7 to 3.13 that this host has; CI must have 3.7."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runyard.environments.pythons import find_minor

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(__file__).parent / "suite"
MINORS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")

#: What runs inside a user's job.
KIT_ROOMS = ("__init__.py", "errors.py", "protocol", "client", "sdk", "azureml")
SUITE_LIMIT_S = 100


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a job gets, and nothing else."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "runyard").mkdir()
    for name in KIT_ROOMS:
        source = ROOT / "src" / "runyard" / name
        if source.is_dir():
            shutil.copytree(source, folder / "runyard" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "runyard" / name)
    shutil.copytree(ROOT / "packages" / "runyard-azureml" / "src" / "runyard_azureml" / "azureml", folder / "azureml")
    return folder


@pytest.mark.parametrize("minor", MINORS)
def test_kit_works_on_this_python(minor: str, kit: Path) -> None:
    interpreter = find_minor(minor)
    if interpreter is None:
        if minor == MINORS[0] and os.environ.get("CI") == "true":
            pytest.fail(f"CI must have Python {minor}: jobs of old pins run on it.")
        pytest.skip(f"This host has no Python {minor}.")
    command = [interpreter.path, "-S", "-W", "error", "-m", "unittest", "discover", "-s", str(SUITE), "-p", "*.py"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(kit), "LANG": "C.UTF-8", "HOME": str(kit)}
    done = subprocess.run(
        command, cwd=kit, env=environment, capture_output=True, text=True, timeout=SUITE_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\nOK" in done.stderr
