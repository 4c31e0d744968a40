"""The engines that the same tests run against: each with a server of its own and a compute target of two nodes."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget, RayCompute, RemoteCompute, SlurmCompute
from runyard.client.local_server import is_running
from runyard.sdk.attached_compute import AttachConfiguration
from runyard.sdk.session import current_server, forget_server
from tests.engines.line import Line, line_to
from tests.engines.public_server import PublicServer, public_server
from tests.engines.ray_cluster import RayCluster, ray_cluster, ray_python
from tests.engines.slurm_cluster import SlurmCluster, slurm_cluster
from tests.engines.sshd import SshMachine, ssh_machine
from tests.own_server import own_server

#: The name of the target in each workspace.
TARGET = "there"


@dataclass
class Engine:
    """An engine under test."""

    kind: str
    workspace: Workspace
    home: Path
    #: Where the nodes keep runners, environments and attempts.
    node_folder: Path
    slurm: SlurmCluster | None = None
    ray: RayCluster | None = None
    server: PublicServer | None = None
    ssh: SshMachine | None = None
    #: The nodes' way to the server, where it is one that can be held up.
    line: Line | None = None

    @property
    def nodes(self) -> int:
        """How many nodes its target has."""
        return 1 if self.kind == "ssh" else 2

    def attach(self, workspace: Workspace) -> None:
        """Make the engine a target of that workspace too."""
        if self.slurm is not None:
            asked = SlurmCompute.attach_configuration("steady", node_folder=str(self.node_folder))
        elif self.ray is not None:
            asked = ray_settings(self.ray, self.node_folder)
        elif self.kind == "ray-here":
            own = RayCompute.provisioning_configuration(max_nodes=2, node_folder=str(self.node_folder))
            ComputeTarget.create(workspace, TARGET, own)
            return
        elif self.ssh is not None:
            asked = ssh_settings(self.ssh, self.node_folder)
        else:
            config = AmlCompute.provisioning_configuration(max_nodes=2, idle_seconds_before_scaledown=600)
            ComputeTarget.create(workspace, TARGET, config)
            return
        ComputeTarget.attach(workspace, TARGET, asked)

    def submit(self, folder: Path, script: str, *arguments: Any, **settings: Any) -> Run:
        """Submit a script of that text to the engine's target; ``settings`` are attributes of its run configuration."""
        (folder / "source").mkdir(exist_ok=True)
        (folder / "source" / "script.py").write_text(script)
        environment = settings.pop("environment", None) or here()
        distribution = settings.pop("distribution", None)
        target = settings.pop("compute_target", TARGET)
        config = ScriptRunConfig(
            str(folder / "source"),
            "script.py",
            list(arguments),
            compute_target=target,
            environment=environment,
            distributed_job_config=distribution,
        )
        for name, value in settings.items():
            setattr(config.run_config, name, value)
        return Experiment(self.workspace, "engines").submit(config)

    def why(self, run: Run) -> str:
        """What the run waits for."""
        names = {"workspace": self.workspace.name, "run_id": run.id}
        return str(current_server().call("explain_run", **names).waits_for)

    def runner_pid(self, run: Run, node: int = 0) -> int:
        """The runner of a node of the run's first attempt, once it lives."""
        name = f"{run.id}/1-{node}" if node else f"{run.id}/1"
        places = [self.home / "runs", *self.node_folder.glob("runs-*")]
        found = [place / name / "runner.json" for place in places]
        wait_until(lambda: any(one.exists() for one in found), "the runner says who it is")
        return int(json.loads(next(one for one in found if one.exists()).read_bytes())["pid"])

    def is_clean(self, run: Run) -> bool:
        """Is nothing of the run left: no process, no folder of an attempt?"""
        folders = [*self.home.glob(f"runs/{run.id}/*"), *self.node_folder.glob(f"runs-*/{run.id}/*")]
        return not folders and not list(with_prefix("RUNYARD_KEY", f"{run.id}/"))

    def restart_server(self) -> None:
        """End the server, as an update does, and let the next call start another."""
        current_server().call("stop_server")
        wait_until(lambda: not is_running(self.home), "the server ends")
        if self.server is not None:
            self.server.wait()
            self.server.start()
        forget_server()


def with_prefix(name: str, start: str) -> Iterator[int]:
    """Processes whose variable of that name begins so."""
    wanted = f"{name}={start}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if any(one.startswith(wanted) for one in entry.read_bytes().split(b"\0")):
                yield int(entry.parent.name)


def wait_until(
    is_so: Callable[[], bool], what: str, limit_s: float = 120.0, more: Callable[[], object] = lambda: ""
) -> None:
    """Wait until it is so; ``more`` tells what stands in the way where it does not come."""
    ends_at = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < ends_at, f"{what} {more()}"
        time.sleep(0.05)


def here() -> Environment:
    """An environment that is this interpreter as it is."""
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    return environment


def ray_variables(ray: RayCluster) -> dict[str, str]:
    """What a server needs that speaks with that cluster: nodes in other namespaces reach it over the bridge."""
    return {
        "RUNYARD_RAY_PYTHON": str(ray.python),
        **{name: text for name, text in ray.settings.items() if name.startswith("RAY_")},
    }


def ssh_settings(ssh: SshMachine, node_folder: Path, **more: Any) -> AttachConfiguration:
    """The machine as a target."""
    asked = {"private_key_file": str(ssh.key), **more}
    return RemoteCompute.attach_configuration(
        ssh.username, address=ssh.address, ssh_port=ssh.port, node_folder=str(node_folder), **asked
    )


def ray_settings(ray: RayCluster, node_folder: Path) -> AttachConfiguration:
    """The cluster as a target of two nodes."""
    return RayCompute.attach_configuration(ray.address, max_nodes=2, node_folder=str(node_folder))


def end_heads(engine: Engine) -> None:
    """Take the target away with its head, which would outlive its server."""
    for run in Experiment(engine.workspace, "engines").get_runs():
        if run.get_status() in ("Queued", "Running"):
            run.cancel()
            run.wait_for_completion(raise_on_error=False)
    for target in ComputeTarget.list(engine.workspace):
        target.delete()
    assert not list(engine.home.glob("ray/*/head.json"))


@contextmanager
def make_engine(
    kind: str,
    folder: Path,
    node_folder: Path | None = None,
    ray_nodes: tuple[int, int] = (2, 0),
    has_line: bool = False,
    **variables: str,
) -> Iterator[Engine]:
    """A server with these variables, and an engine of that kind attached, whose nodes keep all in ``node_folder``.

    ``ray_nodes``: how many nodes of a Ray cluster are there from the start, and how many more come on demand.
    ``has_line``: nodes reach the server by a line that can be held up.
    """
    home, node_folder = folder / "home", node_folder or folder / "node"
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Nodes keep nothing in the home of who runs the tests.
        for name, text in {"XDG_CACHE_HOME": str(folder / "node"), **variables}.items():
            patch.setenv(name, text)
        slurm = stack.enter_context(slurm_cluster(folder / "slurm")) if kind == "slurm" else None
        ray = stack.enter_context(ray_cluster(folder / "ray", *ray_nodes)) if kind == "ray" else None
        ssh = stack.enter_context(ssh_machine(folder / "ssh")) if kind == "ssh" else None
        if kind == "ray-here":
            patch.setenv("RUNYARD_RAY_PYTHON", str(ray_python()))
        needed = {**(slurm.settings if slurm else {}), **(ray_variables(ray) if ray else {})}
        for name, text in needed.items():
            patch.setenv(name, text)
        reached = ray.site.head if ray else ssh.server_address if ssh else None
        line = stack.enter_context(line_to(home, reached or "127.0.0.1")) if has_line else None
        if line is not None:
            patch.setenv("RUNYARD_PUBLIC_URL", line.url)
        server = stack.enter_context(public_server(home, reached)) if reached else None
        stack.enter_context(own_server(home))
        workspace = Workspace.create("engines", exist_ok=True)
        engine = Engine(kind, workspace, home, node_folder, slurm, ray, server, ssh, line)
        engine.attach(engine.workspace)
        try:
            yield engine
        finally:
            if kind == "ray-here":
                end_heads(engine)
