"""The engines that the same tests run against: each with a server of its own and a compute target of two nodes."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget, SlurmCompute
from tests.engines.slurm_cluster import SlurmCluster, slurm_cluster
from tests.own_server import own_server

#: The name of the target in each workspace.
TARGET = "there"


@dataclass
class Engine:
    """An engine under test."""

    kind: str
    workspace: Workspace
    home: Path
    slurm: SlurmCluster | None = None

    def submit(self, folder: Path, script: str, *arguments: Any, **settings: Any) -> Run:
        """Submit a script of that text to the engine's target; ``settings`` are attributes of its run configuration."""
        (folder / "source").mkdir(exist_ok=True)
        (folder / "source" / "script.py").write_text(script)
        environment = settings.pop("environment", None) or here()
        distribution = settings.pop("distribution", None)
        config = ScriptRunConfig(
            str(folder / "source"),
            "script.py",
            list(arguments),
            compute_target=TARGET,
            environment=environment,
            distributed_job_config=distribution,
        )
        for name, value in settings.items():
            setattr(config.run_config, name, value)
        return Experiment(self.workspace, "engines").submit(config)


def here() -> Environment:
    """An environment that is this interpreter as it is."""
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    return environment


@contextmanager
def make_engine(kind: str, folder: Path) -> Iterator[Engine]:
    """A server, and an engine of that kind attached to it."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Nodes keep nothing in the home of who runs the tests.
        patch.setenv("XDG_CACHE_HOME", str(folder / "node"))
        slurm = None
        if kind == "slurm":
            slurm = stack.enter_context(slurm_cluster(folder / "slurm"))
            for name, text in slurm.settings.items():
                patch.setenv(name, text)
        stack.enter_context(own_server(folder / "home"))
        workspace = Workspace.create("engines", exist_ok=True)
        if slurm is None:
            config = AmlCompute.provisioning_configuration(max_nodes=2, idle_seconds_before_scaledown=600)
            ComputeTarget.create(workspace, TARGET, config)
        else:
            settings = SlurmCompute.attach_configuration("steady", node_folder=str(folder / "node"))
            ComputeTarget.attach(workspace, TARGET, settings)
        yield Engine(kind, workspace, folder / "home", slurm)
