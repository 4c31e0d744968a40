"""What v1's objects of services have beside what makes them answer, on a real server."""

from typing import Any

import pytest

from runyard.azureml.core import Model, Webservice, Workspace
from runyard.azureml.core.webservice import AksEndpoint, AksWebservice
from runyard.errors import WebserviceException
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
