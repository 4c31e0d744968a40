"""A home and a server of its own for a block, and scripts that run there in the interpreter of the tests."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.client.local_server import connect
from runyard.sdk.session import current_server, forget_server


@contextmanager
def own_server(home: Path, **variables: str) -> Iterator[None]:
    """``home`` is this process's, with these variables; its server, started by the first call, ends with the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, text in {"RUNYARD_HOME": str(home), **variables}.items():
            patch.setenv(name, text)
        forget_server()
        try:
            yield
        finally:
            found = connect()
            found.call("stop_server")
            found.close()
            forget_server()


def submit_here(workspace: Workspace, folder: Path, script: str, *arguments: Any, **variables: str) -> Run:
    """Submit a script of that text, which needs no environment to be built and gets these variables."""
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "script.py").write_text(script)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    environment.environment_variables.update(variables)
    config = ScriptRunConfig(str(folder / "source"), "script.py", list(arguments), environment=environment)
    return Experiment(workspace, "here").submit(config)


def run_here(workspace: Workspace, folder: Path, script: str, *arguments: Any) -> str:
    """As ``submit_here``; what the script has printed, once the run has completed."""
    run = submit_here(workspace, folder, script, *arguments)
    run.wait_for_completion()
    return log_of(run, folder)


def log_of(run: Run, folder: Path) -> str:
    """The log of a run once it has ended, however that was, by way of a file in ``folder``."""
    run.wait_for_completion(raise_on_error=False)
    run.download_file("user_logs/std_log.txt", str(folder / "log.txt"))
    return (folder / "log.txt").read_text()


def stored_bytes(store: Any, path: str) -> bytes:
    """The file of a datastore, as the server gives it."""
    pieces = current_server().stream("read_datastore_file", workspace=store.workspace.name, name=store.name, path=path)
    return b"".join(pieces)
