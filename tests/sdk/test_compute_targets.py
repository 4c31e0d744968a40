"""Compute targets of v1 beside AmlCompute: an instance of one's own, and Azure's services."""

import pytest

from runyard.azureml.core import Workspace, compute
from runyard.azureml.core.compute import AmlCompute, ComputeInstance, ComputeTarget
from runyard.errors import ComputeTargetException

pytestmark = [pytest.mark.e2e]

FOREIGN = (
    "AdlaCompute", "AksCompute", "BatchCompute", "DatabricksCompute", "DataFactoryCompute", "DsvmCompute",
    "HDInsightCompute", "KubernetesCompute", "SynapseCompute",
)  # fmt: skip


def test_instance_is_a_cluster_of_one_node_that_stays(capsys: pytest.CaptureFixture[str]) -> None:
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
    for _ in range(2):
        instance.stop(wait_for_completion=True)
    instance.start()
    instance.restart()
    assert capsys.readouterr().err.count("is a node of this machine and goes on") == 1
    assert ComputeInstance(workspace, "mine").serialize()["properties"]["state"] == "Running"
    assert isinstance(ComputeTarget(workspace, "mine"), AmlCompute)
    instance.delete()


def test_cluster_is_no_instance() -> None:
    workspace = Workspace.create("instances", exist_ok=True)
    ComputeTarget.create(workspace, "many", AmlCompute.provisioning_configuration(max_nodes=2))
    with pytest.raises(ComputeTargetException, match=r"is no ComputeInstance; get it with ComputeTarget\(ws, 'many'\)"):
        ComputeInstance(workspace, "many")


@pytest.mark.parametrize("name", FOREIGN)
def test_service_of_azures_says_what_takes_its_place(name: str) -> None:
    kind = getattr(compute, name)
    for use in (kind, kind.provisioning_configuration, kind.attach_configuration, kind.create, kind.attach):
        with pytest.raises(ComputeTargetException, match=f"{name} is a service of Azure's; "):
            use(None, "name", resource_id="x")
