"""The examples run as a newcomer runs them: the script and the notebook, in a copy of their folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("examples")]

#: Executes a notebook in place, its first code cell replaced; in a process of its own, as Jupyter would.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
notebook.cells[1].source = "small = True"
NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=sys.argv[2])
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the examples, and the environment of a newcomer with an empty home."""
    folder = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    variables = {**os.environ, "RUNYARD_HOME": str(folder / "home")}
    yield folder, variables
    subprocess.run([sys.executable, "-m", "runyard.cli", "down"], env=variables, check=True, capture_output=True)


def test_quickstart_script_trains_and_registers_and_reuses_everything(
    surroundings: tuple[Path, dict[str, str]],
) -> None:
    folder, variables = surroundings
    for version in (1, 2):
        done = subprocess.run(
            [sys.executable, "examples/quickstart.py", "--small"],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"digits version {version} in " in done.stdout
        assert "dataset 'digits' version 1" in done.stdout
        assert ("Streaming azureml-logs/20_image_build_log.txt" in done.stdout) == (version == 1)
    model = folder / ".quickstart" / "model" / "model" / "model.joblib"
    assert model.stat().st_size > 10_000


def test_notebook_runs_from_top_to_end(surroundings: tuple[Path, dict[str, str]]) -> None:
    folder, variables = surroundings
    path = folder / "examples" / "quickstart.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(folder / "examples")],
        env=variables,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    results = ["".join(output["data"]["text/plain"]) for output in outputs if output["output_type"] == "execute_result"]
    assert float(results[-2]) > 0.85
    assert "model.joblib" in results[-1]
