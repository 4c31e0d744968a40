"""A notebook as the script of a run: its cells, its arguments, what is left of it, and what it needs."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.exceptions import UserErrorException
from runyard.azureml.train.estimator import Estimator
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, PythonSpec
from runyard.sdk import notebook_script
from tests.own_server import log_of, own_server


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    with own_server(tmp_path_factory.mktemp("notebooks-home")):
        yield Experiment(Workspace.create("notebooks", exist_ok=True), "trial")


def _write(folder: Path, *cells: str) -> Path:
    folder.mkdir(exist_ok=True)
    made: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{place}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for place, text in enumerate(cells)
    ]
    content = {"cells": made, "metadata": {"kernelspec": {"name": "gone", "display_name": "Another"}}}
    (folder / "train.ipynb").write_text(json.dumps({**content, "nbformat": 4, "nbformat_minor": 5}))
    return folder


def _here() -> Environment:
    found = Environment("as-it-is")
    found.python.user_managed_dependencies = True
    found.python.interpreter_path = sys.executable
    return found


@pytest.mark.e2e
def test_notebook_runs_as_a_script_does(experiment: Experiment, tmp_path: Path) -> None:
    source = _write(
        tmp_path / "source",
        "import sys\nfrom azureml.core import Run\nrun = Run.get_context()\nprint('words', sys.argv[1:])",
        "run.log('accuracy', 0.5)\nopen('outputs/result.txt', 'w').write('result')\n6 * 7",
    )
    estimator = Estimator(
        source,
        compute_target="local",
        entry_script="train.ipynb",
        script_params={"--rate": 0.1, "--fast": ""},
        environment_definition=_here(),
    )
    run = experiment.submit(estimator)
    log = log_of(run, tmp_path)
    assert run.get_status() == "Completed", log
    assert "words ['--rate', '0.1', '--fast']" in log
    assert "42" in log.splitlines()
    assert run.get_metrics() == {"accuracy": 0.5}
    assert run.get_details()["runDefinition"]["script"] == "train.ipynb"
    assert {"outputs/result.txt", "outputs/train.ipynb"} <= set(run.get_file_names())
    run.download_file("outputs/train.ipynb", str(tmp_path / "done.ipynb"))
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    assert [len(cell["outputs"]) for cell in cells] == [1, 1], "what was submitted, with its outputs"


@pytest.mark.e2e
def test_cell_that_fails_ends_the_run(experiment: Experiment, tmp_path: Path) -> None:
    source = _write(tmp_path / "source", "1 / 0", "print('never')")
    run = experiment.submit(ScriptRunConfig(str(source), "train.ipynb", environment=_here()))
    log = log_of(run, tmp_path)
    assert run.get_status() == "Failed"
    assert "ZeroDivisionError" in log
    assert "A cell of 'train.ipynb' failed." in log
    assert "never" not in log.splitlines()
    assert "outputs/train.ipynb" in run.get_file_names()


@pytest.mark.e2e
def test_environment_without_what_runs_a_notebook_is_refused_at_the_submission(
    experiment: Experiment, tmp_path: Path
) -> None:
    source = _write(tmp_path / "source", "pass")
    estimator = Estimator(source, compute_target="local", entry_script="train.ipynb", pip_packages=["nbclient==0.7.4"])
    with pytest.raises(UserErrorException, match="add 'nbclient' and 'ipykernel' to its pip packages"):
        experiment.submit(estimator)


@pytest.mark.parametrize(
    "lines",
    [("nbclient==0.7.4", "ipykernel"), ("conda-forge::jupyter=1.0",), ("Papermill", "ipykernel>=6"), ("-r more.txt",)],
)
def test_package_that_brings_it_is_enough(lines: tuple[str, ...]) -> None:
    spec = EnvironmentSpec(python=PythonSpec(conda=CondaSpec(packages=lines)))
    assert notebook_script.command_of("a.ipynb", spec)[-2:] == ("runyard.sdk.notebook_script", "a.ipynb")


def test_run_without_the_package_says_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nbclient", None)
    assert "A notebook needs 'nbclient'" in str(notebook_script.main(["a.ipynb"]))
