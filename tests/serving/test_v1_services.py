"""What v1's objects of services have beside what makes them answer, on a real server."""

from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Model, Webservice, Workspace
from runyard.azureml.core.image import ContainerImage
from runyard.azureml.core.webservice import AciWebservice, AksEndpoint, AksWebservice, LocalWebservice
from runyard.errors import WebserviceException
from tests.serving.asking import post
from tests.serving.conftest import Deploy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]


def test_an_endpoint_has_one_version_with_all_the_traffic(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy
) -> None:
    share: Any
    for share in (0, 50, 100.5, True, "100"):
        with pytest.raises(WebserviceException, match=r"traffic_percentile is 100, not .*update\(\) makes the next"):
            AksEndpoint.deploy_configuration(version_name="one", traffic_percentile=share)
    name: Any = 1
    with pytest.raises(WebserviceException, match="version_name is a text, not 1"):
        AksEndpoint.deploy_configuration(version_name=name)
    config = AksEndpoint.deploy_configuration(version_name="one", traffic_percentile=100, tags={"a": "b"})
    made: Any = deploy("endpoint", [trained["linear"]], deployment_config=config)
    found: Any = Webservice(workspace, "endpoint")
    for one in (made, found, AksWebservice(workspace, "endpoint")):
        assert (type(one), list(one.versions), one.traffic_percentile) == (AksEndpoint, ["one"], 100)
    assert (found.tags, found.auth_enabled, found.compute_type) == ({"a": "b"}, True, "AKS")
    with pytest.raises(WebserviceException, match="One revision of a service answers at a time"):
        found.create_version("two", traffic_percentile=10)
    found.update(scoring_timeout_ms=2_000)
    assert type(Webservice(workspace, "endpoint")) is AksEndpoint
    plain = deploy("plain", [trained["linear"]], deployment_config=AksWebservice.deploy_configuration())
    assert type(plain) is AksWebservice


def test_an_aci_service_shows_what_was_asked_for_and_what_is(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy
) -> None:
    asked: Any = {"location": "westeurope", "ssl_enabled": True, "ssl_cname": "digits.example"}
    config = AciWebservice.deploy_configuration(memory_gb=2, enable_app_insights=True, **asked)
    deploy("shown", [trained["linear"]], deployment_config=config)
    found: Any = Webservice(workspace, "shown")
    assert (found.location, found.cname, found.enable_app_insights) == ("westeurope", "digits.example", True)
    assert found.ssl_enabled is False, "its server has no certificate"
    assert (found.public_ip, found.environment) == (None, None)
    needs = {"cpu": 1, "cpuLimit": None, "memoryInGB": 2, "memoryInGBLimit": None, "gpu": None}
    assert found.container_resource_requirements.serialize() == needs, "the model asked for a processor"
    found.update(enable_app_insights=False)
    assert found.enable_app_insights is False
    plain: Any = deploy("bare", [trained["linear"]])
    assert (plain.location, plain.cname, plain.enable_app_insights) == (None, None, False)


def test_an_aks_service_shows_its_settings_in_v1s_words(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy
) -> None:
    config = AksWebservice.deploy_configuration(
        autoscale_enabled=True, autoscale_max_replicas=2, autoscale_refresh_seconds=3, cpu_cores_limit=1.5,
        memory_gb_limit=4, scoring_timeout_ms=2_500, max_request_wait_time=700, replica_max_concurrent_requests=3,
        namespace="ours", compute_target_name="aks", period_seconds=7, failure_threshold=2, token_auth_enabled=True,
    )  # fmt: skip
    deploy("in-words", [trained["linear"]], deployment_config=config)
    found: Any = Webservice(workspace, "in-words")
    assert found.autoscaler.serialize() == {
        "autoscaleEnabled": True, "minReplicas": 1, "maxReplicas": 2, "refreshPeriodInSeconds": 3,
        "targetUtilization": 70,
    }  # fmt: skip
    assert (found.scoring_timeout_ms, found.max_request_wait_time) == (2_500, 700)
    assert (found.max_concurrent_requests_per_container, found.enable_app_insights) == (3, False)
    assert (found.namespace, found.compute_name) == ("ours", "aks")
    assert found.liveness_probe_requirements.serialize() == {
        "periodSeconds": 7, "initialDelaySeconds": None, "timeoutSeconds": None, "successThreshold": None,
        "failureThreshold": 2,
    }  # fmt: skip
    needs = found.container_resource_requirements
    assert (needs.cpu_limit, needs.memory_in_gb_limit) == (1.5, 4)
    token = found.get_access_token()
    body = {"data": [[0.0] * 64]}
    assert post(found.scoring_uri, body, Authorization=f"{token.token_type} {token.access_token}")[0] == 200
    assert token.refresh_after < token.expiry_on
    found.update(autoscale_enabled=False, num_replicas=1, auth_enabled=True)
    assert (found.autoscaler.autoscale_enabled, found.autoscaler.max_replicas) == (False, None)
    with pytest.raises(WebserviceException, match="takes no tokens: deploy it with token_auth_enabled=True"):
        found.get_access_token()


def test_a_local_service_is_deployed_in_v1s_older_way(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "score.py").write_text("def run(data):\n    return 'older'\n")
    (tmp_path / "conda.yml").write_text("dependencies:\n- python\n- pip:\n  - azureml-defaults\n")
    config = ContainerImage.image_configuration("score.py", "python", conda_file="conda.yml")
    with pytest.raises(WebserviceException, match=r"ContainerImage.image_configuration\(...\) gives, not 'score.py'"):
        Webservice.deploy_local_from_model(workspace, "older", [], "score.py")
    made: Any = Webservice.deploy_local_from_model(workspace, "older", [], config, wait=True)
    try:
        assert (type(made), made.run("{}")) == (LocalWebservice, "older")
        assert "azureml-defaults" in made.environment.python.conda_dependencies.serialize_to_string()
        with pytest.raises(WebserviceException, match="'older' exists already; pass overwrite=True"):
            Webservice.check_for_existing_webservice(workspace, "older")
        Webservice.check_for_existing_webservice(workspace, "older", overwrite=True)
        with pytest.raises(WebserviceException, match="are Azure's own"):
            Webservice.check_for_existing_webservice(workspace, "older", request_func=print)
    finally:
        made.delete()
    Webservice.check_for_existing_webservice(workspace, "older")
