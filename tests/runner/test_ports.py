"""Ports that the processes of a run will listen on."""

import socket
import subprocess
import sys

import pytest

from runyard.runner.ports import Ports

HERE = (
    "import sys; from runyard.runner.ports import Ports; p = Ports(); p.reserve([int(sys.argv[1])]); print(p.numbers)"
)


def _can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _reserved_by_another(port: int, *before: str) -> str:
    command = [*before, sys.executable, "-c", HERE, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_two_tasks_of_a_node_and_another_runner_get_the_next_free_ones() -> None:
    port = _free_port()
    with socket.create_server(("127.0.0.1", port)):
        ports = Ports()
        ports.reserve([port, port])
        assert port < ports.numbers[0] < ports.numbers[1], "somebody listens at the first"
    last = ports.numbers[1]
    assert _reserved_by_another(last) != f"[{last}]"
    ports.close()
    assert _reserved_by_another(last) == f"[{last}]"


@pytest.mark.skipif(not _can_unshare(), reason="No network namespace can be made here.")
def test_node_with_a_network_of_its_own_has_the_port_that_v1_named() -> None:
    port = _free_port()
    ports = Ports()
    ports.reserve([port])
    assert ports.numbers == [port]
    assert _reserved_by_another(port, "unshare", "--net") == f"[{port}]"
    ports.close()
