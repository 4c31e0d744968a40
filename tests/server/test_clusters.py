"""Clusters over the wire: the sizes of virtual machines, and what becomes of a size that this host has not."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.compute.ray import bundle_of
from runyard.db import fleet
from runyard.protocol.compute import ClusterChange, ClusterSpec, VmSize, changed_spec, find_vm_size
from runyard.protocol.identity import Principal, PrincipalKind
from tests.server.application import Application

#: More CPUs than the host of these tests has, which is told that it has two.
LARGE = "Standard_D64s_v3"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = Application(tmp_path / "home")
    found.add_workspace("lenient")
    found.ask("create_workspace", {"name": "strict", "tags": {"compute": "strict"}})
    yield found
    found.close()


@pytest.mark.parametrize("name", ["STANDARD_NC6", "standard_nc6", "Standard_NC6", "nc6"])
def test_size_of_any_case_has_its_processors_memory_and_cards(name: str) -> None:
    assert find_vm_size(name) == VmSize("STANDARD_NC6", cpus=6, memory_gib=56, gpus=1)


@pytest.mark.parametrize(
    ("name", "cpus", "memory_gib", "gpus"),
    [
        ("Standard_D8s_v4", 8, 32, 0), ("STANDARD_D4_V4", 4, 16, 0), ("Standard_D4ds_v4", 4, 16, 0),
        ("Standard_D4as_v5", 4, 16, 0), ("Standard_D16a_v4", 16, 64, 0), ("Standard_E16_v3", 16, 128, 0),
        ("Standard_E64_v3", 64, 432, 0), ("Standard_E20ds_v4", 20, 160, 0), ("Standard_F72s_v2", 72, 144, 0),
        ("Standard_F4", 4, 8, 0), ("Standard_B2s", 2, 4, 0), ("Standard_B4ms", 4, 16, 0), ("Standard_A2_v2", 2, 4, 0),
        ("Basic_A1", 1, 1.75, 0), ("Standard_DS12_v2", 4, 28, 0), ("Standard_DS13-2_v2", 2, 56, 0),
        ("Standard_E64-16s_v3", 16, 432, 0), ("Standard_L8s_v2", 8, 64, 0), ("Standard_M64s", 64, 1024, 0),
        ("Standard_G3", 8, 112, 0), ("Standard_H16mr", 16, 224, 0), ("STANDARD_NC6_PROMO", 6, 56, 1),
        ("Standard_NC16as_T4_v3", 16, 110, 1), ("Standard_NV12s_v3", 12, 112, 1), ("Standard_NV48s_v3", 48, 448, 4),
        ("Standard_NV36ads_A10_v5", 36, 440, 1), ("Standard_ND96amsr_A100_v4", 96, 1900, 8),
        ("Standard_NC40ads_H100_v5", 40, 320, 1), ("Standard_DC4as_v5", 4, 16, 0),
    ],
)  # fmt: skip
def test_size_of_each_family_is_known(name: str, cpus: int, memory_gib: float, gpus: int) -> None:
    found = find_vm_size(name)
    assert found is not None
    assert (found.cpus, found.memory_gib, found.gpus, found.is_guess) == (cpus, memory_gib, gpus, False)


def test_size_that_is_in_no_table_is_told_from_its_name(app: Application) -> None:
    made = app.ask("create_cluster", {"name": "new", "vm_size": "Standard_E2x_v9"}, workspace="lenient").json
    assert made["warnings"] == [
        "Standard_E2x_v9 is not in the table of sizes: its number is taken for 2 CPUs, and 16 GiB from its family."
    ]
    assert find_vm_size("nc12ads_b900_v9") == VmSize("STANDARD_NC12ADS_B900_V9", 12, 108, 1, is_guess=True)


@pytest.mark.parametrize("name", ["STANDARD_GIANT", "large", "Standard_Q4_v2", "D0_v3", "Standard_D2_v3_x", "E4-8s_v3"])
def test_what_is_no_sizes_name_is_refused(app: Application, name: str) -> None:
    reply = app.ask("create_cluster", {"name": "odd", "vm_size": name}, workspace="lenient")
    assert (reply.status, f"{name!r} is no name of a VM size" in reply.error["message"]) == (400, True)


def test_instance_is_one_node(app: Application) -> None:
    reply = app.ask("create_cluster", {"name": "mine", "max_nodes": 2, "is_instance": True}, workspace="lenient")
    assert (reply.status, "A ComputeInstance is one node" in reply.error["message"]) == (400, True)


def test_what_the_host_lacks_is_said_and_emulated(app: Application) -> None:
    made = app.ask("create_cluster", {"name": "large", "vm_size": LARGE}, workspace="lenient").json
    (warning,) = made["warnings"]
    assert warning == f"{LARGE} is emulated: this host lacks 64 CPUs (it has 2); runs use what it has."
    assert app.ask("get_cluster", workspace="lenient", name="large").json["warnings"] == [warning]


def test_strict_workspace_refuses_what_the_host_lacks_and_takes_what_it_has(app: Application) -> None:
    reply = app.ask("create_cluster", {"name": "large", "vm_size": LARGE}, workspace="strict")
    assert reply.error["type"] == "ComputeTargetException"
    assert "lacks 64 CPUs" in reply.error["message"]
    assert "compute=strict" in reply.error["message"]
    assert app.ask("list_clusters", workspace="strict").json == []
    fitting: dict[str, Any] = {"name": "fitting", "vm_size": "STANDARD_D2_V2"}
    assert app.ask("create_cluster", fitting, workspace="strict").json["warnings"] == []


def test_change_leaves_what_it_does_not_name() -> None:
    spec = ClusterSpec("one", min_nodes=1, max_nodes=3, description="ours", tags={"a": "b"})
    changed = changed_spec(spec, ClusterChange(min_nodes=0))
    assert changed == ClusterSpec("one", min_nodes=0, max_nodes=3, description="ours", tags={"a": "b"})


def test_only_owners_make_a_ray_of_the_servers_own(app: Application) -> None:
    token = app.add_token(Principal(PrincipalKind.USER, "ben", "contributor"))
    asked = {"name": "ray", "engine": {"kind": "ray", "settings": {"address": "local"}}}
    reply = app.ask("create_cluster", asked, token=token, workspace="lenient")
    assert (reply.status, "ask an owner to" in reply.error["message"]) == (403, True)
    assert not (app.home / "ray").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": "nan"},
        {"cpus": "inf"},
        {"gpus": "-1"},
        {"cpus": "0"},
        {"memory_gib": "1e300"},
        {"resources": "[1]"},
        {"resources": '{"big": 1e999}'},
        {"resources": '{"big": null}'},
        {"cpus": "1e9"},
    ],
)
def test_what_no_node_can_have_is_one_sentence(app: Application, wrong: dict[str, str]) -> None:
    asked = {"name": "ray", "engine": {"kind": "ray", "settings": {"address": "local", **wrong}}}
    reply = app.ask("create_cluster", asked, workspace="lenient")
    assert (reply.status, "are numbers that a node can have" in reply.error["message"]) == (400, True)


def test_ray_takes_its_nodes_from_a_size() -> None:
    assert bundle_of({"vm_size": "STANDARD_NC12"}) == {"CPU": 12, "GPU": 2}
    assert bundle_of({"vm_size": "nc6", "cpus": "2", "resources": '{"pool": 1}'}) == {"CPU": 2, "GPU": 1, "pool": 1}
    assert bundle_of({}) == {"CPU": 1}


def test_stopped_target_is_on_its_way_to_no_node(app: Application) -> None:
    asked = {"name": "small", "min_nodes": 1, "max_nodes": 3}
    assert app.ask("create_cluster", asked, workspace="lenient").status == 200
    assert app.ask("get_cluster", workspace="lenient", name="small").json["target_node_count"] == 1
    found = app.ask("change_cluster", {"is_stopped": True}, workspace="lenient", name="small").json
    assert (found["target_node_count"], found["allocation_state"]) == (0, "Steady")


def test_node_that_is_taken_away_and_stays_is_told_of(tmp_path: Path) -> None:
    app = Application(tmp_path / "home", node_stuck_minutes=0)
    app.add_workspace("ws")
    app.ask("create_cluster", {"name": "some", "vm_size": "STANDARD_D2_V2"}, workspace="ws")
    app.add_run("ws", "one")
    app.parts.database.write(lambda c: fleet.add_node(c, "ws/some/node-0", "ws", "some", 1))
    app.parts.database.write(lambda c: fleet.assign_node(c, "ws/some/node-0", "one", 2))
    (preparing,) = app.ask("list_clusters", workspace="ws").json
    assert "with run one in Starting" in preparing["nodes"][0]["stuck"]
    app.ask("remove_node", query="evict=1", workspace="ws", name="some", node="node-0")
    first = app.ask("get_cluster", workspace="ws", name="some").json["nodes"][0]
    assert first["stuck"].startswith("node-0 has been leaving for 0 minutes, with run one")
    assert first["since"] > 2, "its leaving counts, and not how long it ran"
    app.ask("remove_node", query="evict=1", workspace="ws", name="some", node="node-0")
    assert app.ask("get_cluster", workspace="ws", name="some").json["nodes"][0]["since"] == first["since"]
    app.close()
