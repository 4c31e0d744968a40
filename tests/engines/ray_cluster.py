"""A real Ray cluster of several nodes on this host, for tests.

The head stands on the host itself, at the address of a bridge of its own; each other node is a raylet in a network
namespace of its own, joined to that bridge. All nodes share this host's files and processes. Some nodes are there from
the start; others come on demand and go when they are idle, by Ray's autoscaler.

Ray lives in an environment of its own, so what speaks with the cluster is a process of that environment's interpreter.
"""

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard.environments.uv import find_uv
from tests.engines import ray_nodes
from tests.engines.ray_nodes import CPUS, ELASTIC, STEADY, Node, Site

#: For a test that uses a cluster: ``pytestmark = RAY``. The first may wait for Ray to be installed.
RAY = [
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs: apt install iproute2"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make network namespaces"),
    pytest.mark.e2e,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(420),
]

#: For a test of a Ray that the server starts.
RAY_HERE = [pytest.mark.e2e, pytest.mark.xdist_group("ray"), pytest.mark.timeout(420)]

HERE = Path(__file__).resolve().parent
#: Ray takes 350 MB: an environment of its own, made once for each checkout.
RAY_FOLDER = HERE.parents[1] / ".venv-ray"
VERSION = "2.60.0"
#: The autoscaler's configuration, in the cluster's folder.
AUTOSCALING = "autoscaling.json"

#: How long a node of the autoscaler may be idle, seconds.
IDLE_S = 6
#: Longest wait for the cluster, for a script and for an installation, seconds.
START_LIMIT_S = 220.0
SCRIPT_LIMIT_S = 100.0
#: How often a head is started before it is given up.
HEAD_STARTS_MAX = 3
INSTALL_LIMIT_S = 280.0


@dataclass
class RayCluster:
    """A cluster that is up."""

    site: Site
    #: The interpreter that has Ray.
    python: Path
    client_port: int
    dashboard_port: int
    keeper: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        """Host and port, for ``ray.init(address=...)`` on this host: the head's raylet is the driver's."""
        return self.site.address

    @property
    def client_address(self) -> str:
        """For ``ray.init(address=...)`` of Ray's client, whose driver is a process of the head."""
        return f"ray://{self.site.head}:{self.client_port}"

    @property
    def token(self) -> str:
        """What whoever would speak with the cluster must show."""
        return self.site.token_file.read_text()

    @property
    def settings(self) -> dict[str, str]:
        """Variables for a process that would speak with the cluster."""
        return {**self.site.settings(), "RAY_ADDRESS": self.address}

    def begin(self, script: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Begin a script that has Ray and the cluster's settings, apart from those given."""
        return subprocess.Popen(
            [str(self.python), "-c", script, *arguments],
            env={**_plain_variables(), **self.settings, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **variables: str) -> str:
        """What such a script prints, which must succeed."""
        with self.begin(script, *arguments, **variables) as process:
            try:
                output, errors = process.communicate(timeout=SCRIPT_LIMIT_S)
            finally:
                process.kill()
        assert process.returncode == 0, errors
        return output

    def nodes(self) -> list[Node]:
        """The nodes beside the head that have a raylet, or are starting one."""
        return ray_nodes.living_nodes(self.site)

    def kill_raylet(self, node: Node) -> None:
        """End a node's raylet as a crash would; what jobs have left on the node lives on."""
        ray_nodes.kill(lambda: [pid for pid in ray_nodes.processes_of(node.name) if ray_nodes.is_raylet(pid)])

    def kill_node(self, node: Node) -> None:
        """End all that the node runs, as a loss of power would."""
        ray_nodes.kill(lambda: ray_nodes.processes_of(node.name))

    def kill_head(self) -> None:
        """End all of the head: control store, autoscaler, raylet and what runs there."""
        ray_nodes.kill(lambda: ray_nodes.head_processes(self.site.network))

    def restart_head(self) -> None:
        """Start the head again after ``kill_head``: the same cluster, with the same nodes if they have waited."""
        # Ray gives its control store half a minute to answer, which is too little on a host that is busy.
        for _ in range(HEAD_STARTS_MAX):
            # Ray sees the raylets of other nodes on this host, and would take them for a head that is still there.
            Path(self.site.sessions, "head", "ray_current_cluster").unlink(missing_ok=True)
            if _start_head(self).wait(START_LIMIT_S) == 0:
                return
            self.kill_head()
        pytest.fail(f"the head does not start again\n{_outputs(self.site)}", pytrace=False)

    def close(self) -> None:
        """End and remove all that the cluster has made."""
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()
        assert self.keeper.wait(START_LIMIT_S) == 0, f"something of {self.site.network} is left"


@contextmanager
def ray_cluster(folder: Path, steady: int = 2, elastic: int = 1) -> Iterator[RayCluster]:
    """A cluster with ``steady`` nodes beside its head, and as many as ``elastic`` more on demand.

    A steady node that was lost is replaced. The cluster's records and outputs lie in ``folder``.
    """
    python = ray_python()
    network, subnet = ray_nodes.make_bridge()
    sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    keeping = [sys.executable, str(HERE / "ray_nodes.py"), network, sessions]
    keeper = subprocess.Popen(keeping, stdin=subprocess.PIPE, start_new_session=True)
    port, client_port, dashboard_port = _free_ports(f"{subnet}.1", 3)
    site = Site(network, subnet, port, str(python.with_name("ray")), str(folder), sessions)
    cluster = RayCluster(site, python, client_port, dashboard_port, keeper)
    try:
        _start(cluster, steady, elastic)
        yield cluster
    finally:
        cluster.close()


def ray_python(folder: Path = RAY_FOLDER) -> Path:
    """The interpreter of the environment below ``folder`` that has Ray; it is made first if it is not there."""
    made = folder / "{}-python{}.{}".format(VERSION, *sys.version_info[:2])
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / ".ready").is_file():
            _uv("venv", "--clear", "--python", sys.executable, str(made))
            # Without byte code each start of a process takes several times as long.
            target = ["--compile-bytecode", "--python", str(made / "bin" / "python")]
            _uv("pip", "install", *target, f"ray[default]=={VERSION}")
            (made / ".ready").touch()
    return made / "bin" / "python"


def _uv(*words: str) -> None:
    done = subprocess.run(
        [find_uv(), *words],
        env=_plain_variables(),
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=False,
    )
    if done.returncode == 0:
        return
    # CI must have it; elsewhere its tests are skipped by name.
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"Ray could not be installed: {done.stderr}")


def _plain_variables() -> dict[str, str]:
    """This process's variables, and byte code is written."""
    return {name: text for name, text in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}


def _start(cluster: RayCluster, steady: int, elastic: int) -> None:
    """Start all nodes at once: each waits for the head."""
    site = cluster.site
    site.records.mkdir(parents=True)
    site.save()
    site.token_file.touch(0o600)
    site.token_file.write_text(secrets.token_hex(32))
    Path(site.folder, AUTOSCALING).write_text(json.dumps(_autoscaling(site, steady, elastic)))
    starters = [ray_nodes.start_node(site, STEADY)[1] for _ in range(steady)]
    _wait_until_up(site, [*starters, _start_head(cluster)])


def _start_head(cluster: RayCluster) -> "subprocess.Popen[bytes]":
    site = cluster.site
    place = ["--head", "--port", str(site.port), "--node-ip-address", site.head, "--num-cpus", "0"]
    # Even a dashboard that is left out takes a port, and so does the client's server.
    ports = ["--dashboard-port", str(cluster.dashboard_port), "--ray-client-server-port", str(cluster.client_port)]
    more = ["--include-dashboard", "false", "--autoscaling-config", str(Path(site.folder, AUTOSCALING))]
    variables = {
        # The autoscaler imports the provider from here, and looks for demand each second.
        "PYTHONPATH": str(HERE),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        # What the control store knows outlives it.
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(Path(site.folder, "store")),
    }
    return site.start_ray("head", [*place, *ports, *more], **variables)


def _wait_until_up(site: Site, starters: "list[subprocess.Popen[bytes]]") -> None:
    def up() -> bool:
        codes = [starter.poll() for starter in starters]
        assert not any(codes), "a node did not start"
        return None not in codes

    try:
        ray_nodes.wait_until("the cluster is up", up, START_LIMIT_S)
    except AssertionError as error:
        pytest.fail(f"{error}\n{_outputs(site)}", pytrace=False)


def _autoscaling(site: Site, steady: int, elastic: int) -> dict[str, object]:
    """The autoscaler's configuration: version 1, with a provider from outside of Ray."""
    provider = {
        "type": "external",
        "module": "ray_provider.NamespaceProvider",
        # A provider of this sort must have these four.
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "foreground_node_launch": True,
        "worker_liveness_check": False,
        "site": str(site.file),
    }
    bounds = {STEADY: (steady, steady), ELASTIC: (0, elastic)}
    types: dict[str, object] = {
        kind: {"resources": {"CPU": CPUS, kind: 1}, "node_config": {}, "min_workers": least, "max_workers": most}
        for kind, (least, most) in bounds.items()
    }
    lists = (
        "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
        "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    )  # fmt: skip
    return {
        "cluster_name": site.network,
        "provider": provider,
        "max_workers": steady + elastic,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": IDLE_S / 60,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **types,
        },
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
    }


def _outputs(site: Site) -> str:
    paths = [*Path(site.folder).glob("*.log"), *Path(site.sessions).glob("head/session_latest/logs/monitor.*")]
    return "\n".join(f"{path.name}:\n{path.read_text('utf-8', 'replace')[-3000:]}" for path in paths)


def _free_ports(host: str, count: int) -> list[int]:
    servers = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports
