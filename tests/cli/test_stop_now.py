"""A cluster that is stopped at once while one of its nodes leaves by itself."""

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.cli.compute import commands
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_node_that_leaves_while_its_cluster_is_stopped_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, source = tmp_path / "go", tmp_path / "source"
    source.mkdir()
    waits = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
    (source / "train.py").write_text(waits)
    with own_server(tmp_path / "home"):
        workspace = Workspace.create("terminal", exist_ok=True)
        ComputeTarget.create(workspace, "pool", AmlCompute.provisioning_configuration(max_nodes=1))
        environment = Environment("as-it-is")
        environment.python.user_managed_dependencies = True
        config = ScriptRunConfig(str(source), "train.py", compute_target="pool", environment=environment)
        run = Experiment(workspace, "stop").submit(config)
        while run.get_status() != "Running":
            time.sleep(0.05)
        call = Workspace._call

        def late(self: Workspace, request: str, *arguments: Any, **path: Any) -> Any:
            if request == "remove_node" and not go.exists():
                go.touch()
                while call(self, "get_cluster", name="pool").nodes:
                    time.sleep(0.05)
            return call(self, request, *arguments, **path)

        monkeypatch.setattr(Workspace, "_call", late)
        done = CliRunner().invoke(commands, ["stop", "pool", "--now", "--workspace", "terminal"])
        assert (done.exit_code, done.exception) == (0, None)
        assert "pool is stopped (idle)" in done.output
        assert run.get_status() == "Completed"
