"""Compute targets of v1 beside AmlCompute: an instance of one's own, and Azure's services."""

import re
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace, compute
from runyard.azureml.core.compute import AmlCompute, ComputeInstance, ComputeTarget
from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import ENGINES, facts_of
from runyard.sdk import notices
from runyard.sdk.attached_compute import from_settings
from tests.engines.engines import wait_until

pytestmark = [pytest.mark.e2e]

FOREIGN = (
    "AdlaCompute", "AksCompute", "BatchCompute", "DatabricksCompute", "DataFactoryCompute", "DsvmCompute",
    "HDInsightCompute", "KubernetesCompute", "SynapseCompute",
)  # fmt: skip


def test_instance_is_a_cluster_of_one_node_that_stays() -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound"):
        ComputeInstance(workspace, "mine")
    config = ComputeInstance.provisioning_configuration("STANDARD_D2_V2", ssh_public_access=False, tags={"a": "b"})
    instance = ComputeTarget.create(workspace, "mine", config)
    instance.wait_for_completion(show_output=True)
    assert (instance.type, instance.get_status().state, instance.vm_size) == (
        "ComputeInstance",
        "Running",
        "STANDARD_D2_V2",
    )
    assert len(instance.list_nodes()) == 1
    instance.stop(wait_for_completion=True)
    assert instance.get_status().state == "Stopped"
    for begin in (instance.start, instance.restart):
        instance.stop()
        begin()
        assert instance.get_status().state == "Running"
    assert ComputeInstance(workspace, "mine").serialize()["properties"]["state"] == "Running"
    for found in (ComputeTarget(workspace, "mine"), workspace.compute_targets["mine"], *ComputeTarget.list(workspace)):
        assert (type(found), found.type, found.get_status().state) == (ComputeInstance, "ComputeInstance", "Running")
    with pytest.raises(ComputeTargetException, match="it is a ComputeInstance, one node that stays"):
        ComputeTarget(workspace, "mine").update(max_nodes=2)
    instance.delete()


def test_details_of_a_run_that_waits_say_what_for_and_what_helps(tmp_path: Path) -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    instance = ComputeTarget.create(workspace, "asleep", ComputeInstance.provisioning_configuration())
    instance.stop()
    (tmp_path / "t.py").write_text("")
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    config = ScriptRunConfig(tmp_path, "t.py", compute_target="asleep", environment=environment)
    run = Experiment(workspace, "waits").submit(config)
    wait_until(lambda: "is stopped" in str(run.get_details().get("why")), "it says what it waits for")
    assert re.fullmatch(
        r"Waits for 'asleep', which is stopped, to be started. It is the next one. Since .* UTC. "
        "What helps: Its start: runyard compute start asleep",
        run.get_details()["why"],
    )
    instance.start()
    assert "why" not in run.wait_for_completion()


def test_cluster_is_no_instance() -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    ComputeTarget.create(workspace, "many", AmlCompute.provisioning_configuration(min_nodes=1, max_nodes=1))
    assert type(ComputeTarget(workspace, "many")) is AmlCompute
    with pytest.raises(ComputeTargetException, match=r"is no ComputeInstance; get it with ComputeTarget\(ws, 'many'\)"):
        ComputeInstance(workspace, "many")


def test_name_that_is_taken_with_other_settings_is_v1s_exception() -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    ComputeTarget.create(workspace, "taken", AmlCompute.provisioning_configuration(max_nodes=2))
    ComputeTarget.create(workspace, "taken", AmlCompute.provisioning_configuration(max_nodes=2))
    with pytest.raises(ComputeTargetException, match="'taken' exists with other settings; update or delete it"):
        ComputeTarget.create(workspace, "taken", AmlCompute.provisioning_configuration(max_nodes=3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_nodes": float("inf")}, "max_nodes is a whole number, not inf"),
        ({"max_nodes": 2.7}, "max_nodes is a whole number, not 2.7"),
        ({"max_nodes": True}, "max_nodes is a whole number, not True"),
        ({"tags": ["a"]}, r"tags is a dict of names and values, not \['a'\]"),
        ({"vm_priority": "lowpriorityy"}, "vm_priority is dedicated or lowpriority, not 'lowpriorityy'"),
    ],
)
def test_setting_that_is_none_is_refused_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    with pytest.raises(ComputeTargetException, match=sentence):
        ComputeTarget.create(workspace, "odd", AmlCompute.provisioning_configuration(**settings))


def test_priority_may_be_written_as_the_status_shows_it() -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    ComputeTarget.create(workspace, "spot", AmlCompute.provisioning_configuration(vm_priority="lowpriority"))
    shown = AmlCompute(workspace, "spot").get_status().vm_priority
    again = ComputeTarget.create(workspace, "again", AmlCompute.provisioning_configuration(vm_priority=shown))
    assert again.get_status().vm_priority == shown == "LowPriority"


def test_cluster_has_v1s_other_members(capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace.create("members", exist_ok=True)
    config = AmlCompute.provisioning_configuration(min_nodes=1, max_nodes=3, identity_type="SystemAssigned")
    assert "identity_type 'SystemAssigned' is not used" in capsys.readouterr().err
    cluster = ComputeTarget.create(workspace, "cpu", config)
    cluster.wait_for_completion(timeout_in_minutes=1)
    assert cluster.get().name == AmlCompute.deserialize(workspace, cluster.serialize()).name == "cpu"
    (node,) = cluster.list_nodes()
    assert (node["nodeState"], node["runId"], node["privateIpAddress"]) == ("idle", None, "127.0.0.1")
    (usage,) = AmlCompute.list_usages(workspace)
    assert (usage["name"]["value"], usage["currentValue"], usage["limit"]) == ("cpu", 1, 3)
    assert AmlCompute.list_quotas(workspace) == []
    cluster.update(max_nodes="2", idle_seconds_before_scaledown=60)
    assert (cluster.get_status().scale_settings.maximum_node_count) == 2
    refusals = {
        "max_nodes is a whole number, not 'some'": lambda: cluster.update(max_nodes="some"),
        "delete() takes it away": cluster.detach,
        "what its datastore was registered with": lambda: cluster.add_identity("SystemAssigned"),
        "'cpu' has no identity": cluster.remove_identity,
        "max_nodes bounds it": lambda: AmlCompute.update_quotas(workspace, "D"),
        "is no ComputeInstance": lambda: ComputeInstance.deserialize(workspace, cluster.serialize()),
        "cannot be a compute target's name": lambda: AmlCompute.deserialize(workspace, {}),
    }
    for sentence, call in refusals.items():
        with pytest.raises(ComputeTargetException, match=re.escape(sentence)):
            call()


def test_settings_of_azures_machines_are_taken_and_said_to_change_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    AmlCompute.provisioning_configuration("STANDARD_D2_V2", vnet_name="net", admin_username="me")
    ComputeInstance.provisioning_configuration("STANDARD_D2_V2", ssh_public_access=True)
    told = capsys.readouterr().err
    for name in ("vnet_name", "admin_username", "ssh_public_access"):
        assert f"'{name}' is kept and changes nothing here: nodes are the server's own machine" in told
    AmlCompute.provisioning_configuration("STANDARD_D2_V2", autoscale_enabled=False)
    assert "'autoscale_enabled' is kept and changes nothing here" in capsys.readouterr().err
    AmlCompute.provisioning_configuration("STANDARD_D2_V2")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FOREIGN)
def test_service_of_azures_says_what_takes_its_place(name: str) -> None:
    kind = getattr(compute, name)
    for use in (kind, kind.provisioning_configuration, kind.attach_configuration, kind.create, kind.attach):
        with pytest.raises(ComputeTargetException, match=f"{name} is a service of Azure's; "):
            use(None, "name", resource_id="x")


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_settings_of_every_kind_come_apart_as_its_facts_say(kind: str, tmp_path: Path) -> None:
    facts = facts_of(kind)
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
    (tmp_path / "key").write_text(key)
    given = {
        "address": "host", **dict.fromkeys(facts.secrets, "hidden"),
        **{name: str(tmp_path / "key") for name, _ in facts.key_files},
    }  # fmt: skip
    made = from_settings(kind, given)
    assert (made.settings, made.nodes_max) == ({"address": "host"}, facts.nodes)
    assert made._secrets == {**dict.fromkeys(facts.secrets, "hidden"), **{secret: key for _, secret in facts.key_files}}
    assert {secret for _, secret in facts.key_files} <= {*facts.secrets}
    if facts.is_one_machine:
        return
    assert from_settings(kind, {**given, "max_nodes": "7"}).nodes_max == 7
    with pytest.raises(UserErrorException, match="max_nodes is a whole number, not 'many'"):
        from_settings(kind, {**given, "max_nodes": "many"})
