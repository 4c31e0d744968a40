"""A Ray that the server starts for a target: it outlives the server, comes back when it has died, and ends with it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runyard.azureml.core.compute import ComputeTarget, RayCompute
from runyard.compute.ray_head import CPUS, RayHead
from runyard.errors import ComputeTargetException
from tests.engines.engines import TARGET, Engine, make_engine, wait_until
from tests.engines.ray_cluster import RAY_HERE

pytestmark = RAY_HERE

WAITS = """
import os, sys, time
open(os.path.join(sys.argv[1], "up"), "w").close()
while not os.path.exists(os.path.join(sys.argv[1], "go")):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("ray-here", tmp_path_factory.mktemp("ray-head")) as found:
        yield found


def heads(engine: Engine) -> dict[str, RayHead]:
    """The heads of the server, by the names of their folders."""
    return {one.parent.name: RayHead(one.parent) for one in engine.home.glob("ray/*/head.json")}


def head_of(engine: Engine) -> RayHead:
    settings = ComputeTarget(engine.workspace, TARGET).settings
    return heads(engine)[settings["head"]]


def test_it_outlives_the_server_and_serves_the_next(engine: Engine, tmp_path: Path) -> None:
    before = head_of(engine).processes()
    engine.restart_server()
    engine.submit(tmp_path, "print('after')").wait_for_completion()
    assert before <= head_of(engine).processes() | dead(before)
    assert {pid for pid in before if program(pid).endswith(("gcs_server", "raylet"))} <= head_of(engine).processes()


def dead(pids: set[int]) -> set[int]:
    return {pid for pid in pids if not Path(f"/proc/{pid}").exists()}


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def test_it_listens_to_this_host_alone(engine: Engine) -> None:
    found = listening(head_of(engine).processes())
    assert found, "a head has ports"
    assert {address for address, _ in found} == {"127.0.0.1"}
    _, port = next(iter(found))
    socket.create_connection(("127.0.0.1", port), 5).close()
    for _, port in found:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Addresses and ports where those processes listen."""
    owned = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                owned.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in owned:
                # Little-endian words of 32 bits; an IPv4 address is the last of them.
                address, _, port = words[1].partition(":")
                found.add((socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]), int(port, 16)))
    return found


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_it_is_started_again_when_a_part_of_it_has_died(engine: Engine, tmp_path: Path, name: str) -> None:
    run = engine.submit(tmp_path, WAITS, str(tmp_path))
    wait_until((tmp_path / "up").exists, "its script runs")
    head = head_of(engine)
    (part,) = [pid for pid in head.processes() if program(pid).endswith(name)]
    os.kill(part, signal.SIGKILL)
    late = engine.submit(tmp_path, "print('late')")
    late.wait_for_completion()
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1
    assert part not in head.processes()


def test_each_target_has_its_own_and_takes_it_along(engine: Engine, tmp_path: Path) -> None:
    asked = RayCompute.provisioning_configuration(max_nodes=1, cpus=0.5, resources={"special": 1})
    other = ComputeTarget.create(engine.workspace, "other", asked)
    # Asked for again, it is the same.
    assert ComputeTarget.create(engine.workspace, "other", asked).settings == other.settings
    first, second = head_of(engine), heads(engine)[other.settings["head"]]
    assert float(other.settings[CPUS]) >= (os.cpu_count() or 1)
    engine.submit(tmp_path, "print('special')", compute_target="other").wait_for_completion()
    kept, gone = first.processes(), second.processes()
    assert kept
    assert gone
    assert not kept & gone
    sessions = [Path(path) for path in Path("/tmp").glob("runyard-ray-*") if path.is_dir()]
    with pytest.raises(ComputeTargetException, match="exists with other settings"):
        ComputeTarget.create(engine.workspace, "other", RayCompute.provisioning_configuration(max_nodes=2))
    assert len(heads(engine)) == 2
    other.delete()
    assert not second.processes()
    assert set(heads(engine)) == {ComputeTarget(engine.workspace, TARGET).settings["head"]}
    assert len([path for path in sessions if path.exists()]) == len(sessions) - 1
    wait_until(lambda: not [pid for pid in gone if program(pid).endswith(("gcs_server", "raylet"))], "it has ended")
    assert {pid for pid in kept if program(pid).endswith(("gcs_server", "raylet"))} <= first.processes()


def test_one_that_a_killed_server_left_without_a_target_is_ended(engine: Engine) -> None:
    left = RayHead(engine.home / "ray" / "left")
    left.begin({CPUS: "1"})
    assert left.processes()
    engine.restart_server()
    assert engine.workspace.compute_targets[TARGET].name == TARGET
    assert not left.processes()
    assert head_of(engine).processes()


def test_one_that_cannot_start_is_told(engine: Engine) -> None:
    asked = RayCompute.provisioning_configuration(resources={"CPU": 1})
    with pytest.raises(ComputeTargetException, match="Ray cannot be started on this host"):
        ComputeTarget.create(engine.workspace, "wrong", asked)
    assert "wrong" not in engine.workspace.compute_targets
    assert len(heads(engine)) == 1
