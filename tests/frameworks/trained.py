"""Submits a script in several processes on the cluster of two nodes, and reads what each of them has said."""

import shutil
from pathlib import Path
from typing import Any

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies

SCRIPTS = Path(__file__).parent / "scripts"


def environment_of(name: str, *pip: str, python: str | None = None) -> Environment:
    """Those packages on that Python; None: the server's own."""
    found = Environment(name)
    found.python.conda_dependencies = CondaDependencies.create(pip_packages=pip, python_version=python)
    return found


def train(
    workspace: Workspace,
    folder: Path,
    script: str,
    environment: Environment,
    config: Any,
    *arguments: Any,
    **modules: str,
) -> Run:
    """The run of a script of this folder, with modules of those texts beside it, once it has completed."""
    source = folder / "source"
    source.mkdir()
    shutil.copy(SCRIPTS / script, source)
    shutil.copy(SCRIPTS.parents[2] / "examples" / "train" / "utils.py", source)
    for name, text in modules.items():
        (source / f"{name}.py").write_text(text)
    asked = ScriptRunConfig(
        str(source), script, list(arguments), compute_target="two", environment=environment,
        distributed_job_config=config,
    )  # fmt: skip
    run = Experiment(workspace, "frameworks").submit(asked)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    return run


def said(run: Run, folder: Path, process: int | str) -> str:
    """The log of one process."""
    run.download_file(f"user_logs/std_log_process_{process}.txt", str(folder / "process.txt"))
    return (folder / "process.txt").read_text()
