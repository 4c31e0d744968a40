"""The nodes of a test's Ray cluster: network namespaces on a bridge of the cluster's own.

Tests import this, and so does Ray's autoscaler by way of ``ray_provider``: it needs the standard library alone. As a
program it is the cluster's keeper, which ends and removes all of a cluster once it is told to, or the tests are gone.

``ray stop`` ends every Ray of a host, so nothing here calls it: processes are found by their network namespace, and by
a variable that each process of a cluster has inherited.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

#: What each node offers, beside one unit of a resource named as its kind.
CPUS = 2
OBJECT_STORE_BYTES = 80_000_000
STEADY, ELASTIC = "steady", "elastic"

#: Carried by every process of a cluster: the name of its bridge.
MARK = "RAY_TEST_CLUSTER"

#: Longest wait for processes to begin or to be gone, seconds.
LIMIT_S = 20.0

#: Variables that would lead Ray elsewhere, make each start slow, or make a job believe that it is inside a run.
_FOREIGN = ("RAY_", "RUNYARD_", "AZUREML_", "AZ_BATCH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTEST_")

_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Node:
    """A node beside the head; ``name`` is that of its network namespace."""

    name: str
    kind: str
    address: str


@dataclass(frozen=True)
class Site:
    """Where a cluster stands, as each of its parts must know."""

    #: The bridge, and the first three numbers of its addresses.
    network: str
    subnet: str
    port: int
    #: Ray's own program.
    program: str
    #: Records, outputs and settings.
    folder: str
    #: Ray's sessions: its sockets want a short path.
    sessions: str

    @property
    def head(self) -> str:
        """The head's address, which is the bridge's."""
        return f"{self.subnet}.1"

    @property
    def address(self) -> str:
        """Where the cluster's control store listens."""
        return f"{self.head}:{self.port}"

    @property
    def records(self) -> Path:
        """The folder with a record of each node."""
        return Path(self.folder, "nodes")

    @property
    def token_file(self) -> Path:
        """What whoever would speak with the cluster must show."""
        return Path(self.folder, "token")

    @property
    def file(self) -> Path:
        """Where ``save`` writes all this down."""
        return Path(self.folder, "site.json")

    def save(self) -> None:
        """Write it down for ``load``."""
        self.file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str) -> "Site":
        """What ``save`` wrote."""
        return cls(**json.loads(Path(path).read_text()))

    def settings(self) -> dict[str, str]:
        """Variables that each process of the cluster needs, and each that would speak with it."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        return {**token, "RAY_USAGE_STATS_ENABLED": "0"}

    def start_ray(self, name: str, words: list[str], inside: str = "", **more: str) -> subprocess.Popen[bytes]:
        """Begin ``ray start``, which ends once that node is up; ``more`` are variables of the node's processes."""
        prefix = ["ip", "netns", "exec", inside] if inside else []
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
        # A node that stops answering is noticed in seconds; one that is only slow is not lost.
        health = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
        # Whatever else this host does, it is no reason to kill what a node runs.
        health["RAY_memory_monitor_refresh_ms"] = "0"
        small = ["--object-store-memory", str(OBJECT_STORE_BYTES), "--include-log-monitor", "false"]
        with Path(self.folder, f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                [*prefix, self.program, "start", *words, *small, "--temp-dir", f"{self.sessions}/{name}"],
                env={**kept, **self.settings(), **health, MARK: self.network, **more},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def start_node(site: Site, kind: str) -> tuple[Node, subprocess.Popen[bytes]]:
    """Begin a node in a new network namespace; also the process that ends once the node has joined."""
    name, address = _make_namespace(site)
    place = ["--address", site.address, "--node-ip-address", address]
    offer = ["--num-cpus", str(CPUS), "--resources", json.dumps({kind: 1}), "--labels", f"kind={kind}"]
    starter = site.start_ray(name, place + offer, inside=name)
    # From here on it can be told from a node that is gone.
    wait_until(f"{name} has begun", lambda: processes_of(name) or starter.poll() is not None)
    node = Node(name, kind, address)
    record = site.records / f"{name}.json"
    record.with_suffix(".new").write_text(json.dumps(asdict(node)))
    record.with_suffix(".new").rename(record)
    return node, starter


def living_nodes(site: Site) -> list[Node]:
    """The nodes that have a raylet, or are starting one."""
    return [node for node in _recorded(site) if any(map(_is_raylet_or_starter, processes_of(node.name)))]


def remove_node(site: Site, node: Node) -> None:
    """End all that the node runs, and take its namespace away."""
    (site.records / f"{node.name}.json").unlink(missing_ok=True)
    _remove_namespace(node.name)


def make_bridge() -> tuple[str, str]:
    """Make a bridge that no other process has: its name, and the first three numbers of its addresses."""
    first = os.getpid() % 250
    for number in (*range(first, 250), *range(first)):
        network, subnet = f"ryray{number}", f"10.77.{number}"
        if _ip("link", "add", network, "type", "bridge", check=False):
            _ip("addr", "add", f"{subnet}.1/24", "dev", network)
            _ip("link", "set", network, "up")
            return network, subnet
    raise AssertionError("no bridge could be made")


def remove_all(network: str) -> None:
    """End all processes of a cluster, its autoscaler's among them, then remove its namespaces and its bridge."""
    kill(lambda: _marked_processes(network))
    for namespace in _NAMESPACES.glob(f"{network}-*"):
        _remove_namespace(namespace.name)
    _ip("link", "delete", network, check=False)


def processes_of(namespace: str) -> list[int]:
    """The living processes of a network namespace."""
    try:
        wanted = (_NAMESPACES / namespace).stat().st_ino
    except FileNotFoundError:
        return []
    return [pid for pid in _all_processes() if _namespace_of(pid) == wanted]


def head_processes(network: str) -> list[int]:
    """The living processes of a cluster's head."""
    here = _namespace_of(os.getpid())
    return [pid for pid in _marked_processes(network) if _namespace_of(pid) == here]


def is_raylet(pid: int) -> bool:
    """Whether the process is what makes a node a node of Ray."""
    return _command(pid)[0].endswith(b"/raylet")


def kill(find: Callable[[], list[int]]) -> None:
    """Kill what ``find`` names until it names nothing: a process may be starting another."""

    def gone() -> bool:
        found = find()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_until("processes are gone", gone)


def wait_until(what: str, holds: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until it holds; fail after ``limit_s``."""
    ends_at = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends_at, f"waited {limit_s:.0f} s until {what}"
        time.sleep(0.02)


def _make_namespace(site: Site) -> tuple[str, str]:
    """A network namespace on the cluster's bridge: its name and its address. It reaches nothing but that network."""
    number = next(n for n in itertools.count(2) if _ip("netns", "add", f"{site.network}-{n}", check=False))
    assert number < 255, "the network is full"
    name, address = f"{site.network}-{number}", f"{site.subnet}.{number}"
    _ip("link", "add", name, "master", site.network, "up", "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "link", "set", "lo", "up")
    return name, address


def _remove_namespace(name: str) -> None:
    kill(lambda: processes_of(name))
    # The kernel takes a namespace down some time after its last process; the pair goes at once, and its name is free.
    _ip("link", "delete", name, check=False)
    _ip("netns", "delete", name, check=False)


def _ip(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"
    return done.returncode == 0


def _recorded(site: Site) -> Iterator[Node]:
    for path in sorted(site.records.glob("*.json")):
        # The autoscaler may be removing it.
        with contextlib.suppress(FileNotFoundError):
            yield Node(**json.loads(path.read_text()))


def _is_raylet_or_starter(pid: int) -> bool:
    return is_raylet(pid) or b"--node-ip-address" in _command(pid)


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _marked_processes(network: str) -> list[int]:
    mark = f"{MARK}={network}".encode()
    return [pid for pid in _all_processes() if mark in _read(pid, "environ").split(b"\0")]


def _namespace_of(pid: int) -> int:
    """The number of the process's network namespace; 0 where it has ended, a zombie too."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def _command(pid: int) -> list[bytes]:
    return _read(pid, "cmdline").split(b"\0")


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    # The pipe ends when the tests close it, and when they are killed.
    sys.stdin.buffer.read()
    remove_all(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
