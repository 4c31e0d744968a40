"""AksWebservice: a service with replicas, as v1 put it onto Kubernetes; AksEndpoint is the same here."""

import inspect
from dataclasses import replace
from typing import Any, Dict, Optional, Sequence

from runyard.errors import WebserviceException
from runyard.protocol.services import Deployment, needs_of
from runyard.sdk.aci_webservice import LABELS
from runyard.sdk.deployment_configuration import (
    AksServiceDeploymentConfiguration,
    aks_deployment,
    changed_access,
    check_settings,
)
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.times import utc_time
from runyard.sdk.webservice import Webservice
from runyard.sdk.webservice_sections import (
    AksServiceAccessToken,
    AutoScaler,
    ContainerResourceRequirements,
    LivenessProbeRequirements,
    autoscaler_of,
    probe_of,
    requirements_of,
)


class AksWebservice(Webservice):
    """Replicas, a fixed number or by what is under way; a key is needed unless auth_enabled is False."""

    @property
    def autoscaler(self) -> AutoScaler:
        """How many replicas there may be."""
        return autoscaler_of(self._record.spec.deployment)

    @property
    def container_resource_requirements(self) -> ContainerResourceRequirements:
        """What was asked for each replica."""
        return requirements_of(self._record.spec.deployment)

    @property
    def liveness_probe_requirements(self) -> LivenessProbeRequirements:
        """As it was given; a replica that hangs or ends is replaced without it."""
        return probe_of(self._record.spec.deployment)

    @property
    def enable_app_insights(self) -> bool:
        """Are requests logged?"""
        return self._record.spec.deployment.logged_share > 0

    @property
    def scoring_timeout_ms(self) -> int:
        """How long a request may work."""
        return round(self._record.spec.deployment.timeout_s * 1000)

    @property
    def max_request_wait_time(self) -> Optional[int]:
        """How long a request may wait for its turn, milliseconds; None: until it is there."""
        wait_s = self._record.spec.deployment.wait_s
        return None if wait_s is None else round(wait_s * 1000)

    @property
    def max_concurrent_requests_per_container(self) -> int:
        """So many requests under way fill a replica, as autoscale counts them."""
        return self._record.spec.deployment.concurrent_requests

    @property
    def compute_name(self) -> Optional[str]:
        """The cluster whose runs its replicas are, or the name that was given; None: the server's host."""
        deployment = self._record.spec.deployment
        return deployment.target or deployment.kept.get("compute_target_name")

    @property
    def namespace(self) -> Optional[str]:
        """As it was given."""
        return self._record.spec.deployment.kept.get("namespace")

    def get_access_token(self) -> AksServiceAccessToken:
        """A token with its times; WebserviceException where it takes none."""
        found = self._ask("create_service_token")
        return AksServiceAccessToken(found.token, "Bearer", utc_time(found.refresh_after), utc_time(found.expires_at))

    @staticmethod
    def deploy_configuration(
        autoscale_enabled: Optional[bool] = None,
        autoscale_min_replicas: Optional[int] = None,
        autoscale_max_replicas: Optional[int] = None,
        autoscale_refresh_seconds: Optional[int] = None,
        autoscale_target_utilization: Optional[int] = None,
        collect_model_data: Optional[bool] = None,
        auth_enabled: Optional[bool] = None,
        cpu_cores: Optional[float] = None,
        memory_gb: Optional[float] = None,
        enable_app_insights: Optional[bool] = None,
        scoring_timeout_ms: Optional[int] = None,
        replica_max_concurrent_requests: Optional[int] = None,
        max_request_wait_time: Optional[int] = None,
        num_replicas: Optional[int] = None,
        primary_key: Optional[str] = None,
        secondary_key: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        gpu_cores: Optional[int] = None,
        period_seconds: Optional[int] = None,
        initial_delay_seconds: Optional[int] = None,
        timeout_seconds: Optional[int] = None,
        success_threshold: Optional[int] = None,
        failure_threshold: Optional[int] = None,
        namespace: Optional[str] = None,
        token_auth_enabled: Optional[bool] = None,
        compute_target_name: Optional[str] = None,
        cpu_cores_limit: Optional[float] = None,
        memory_gb_limit: Optional[float] = None,
        blobfuse_enabled: Optional[bool] = None,
    ) -> AksServiceDeploymentConfiguration:
        """Settings of such a service; what is Kubernetes' own is kept and shown, and changes nothing."""
        given = dict(locals())
        labels = {name: given.pop(name) for name in LABELS}
        return AksServiceDeploymentConfiguration(aks_deployment(given), **labels)

    def update(self, image: Any = None, **given: Any) -> None:
        """What is given changes, by deploy_configuration's names and models, inference_config, image."""
        models: Optional[Sequence[Model]] = given.pop("models", None)
        config: Optional[InferenceConfig] = given.pop("inference_config", None)
        labels = {name: given.pop(name, None) for name in LABELS}
        for name in ("primary_key", "secondary_key"):
            if labels[name] is not None:
                raise WebserviceException(f"update() takes no {name}: regen_key() sets a key.")
        given = {name: value for name, value in given.items() if value is not None}
        deployment = _changed(self._record.spec.deployment, given) if given else None
        self._update(models, config, image, deployment, labels["description"], labels["tags"], labels["properties"])


class AksEndpoint(AksWebservice):
    """v1's service with several versions at once: versions are revisions here, of which one answers."""

    @staticmethod
    def deploy_configuration(  # type: ignore[override]
        autoscale_enabled: Optional[bool] = None,
        autoscale_min_replicas: Optional[int] = None,
        autoscale_max_replicas: Optional[int] = None,
        autoscale_refresh_seconds: Optional[int] = None,
        autoscale_target_utilization: Optional[int] = None,
        collect_model_data: Optional[bool] = None,
        auth_enabled: Optional[bool] = None,
        cpu_cores: Optional[float] = None,
        memory_gb: Optional[float] = None,
        enable_app_insights: Optional[bool] = None,
        scoring_timeout_ms: Optional[int] = None,
        replica_max_concurrent_requests: Optional[int] = None,
        max_request_wait_time: Optional[int] = None,
        num_replicas: Optional[int] = None,
        primary_key: Optional[str] = None,
        secondary_key: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        gpu_cores: Optional[int] = None,
        period_seconds: Optional[int] = None,
        initial_delay_seconds: Optional[int] = None,
        timeout_seconds: Optional[int] = None,
        success_threshold: Optional[int] = None,
        failure_threshold: Optional[int] = None,
        namespace: Optional[str] = None,
        token_auth_enabled: Optional[bool] = None,
        version_name: Optional[str] = None,
        traffic_percentile: Optional[float] = None,
        compute_target_name: Optional[str] = None,
        cpu_cores_limit: Optional[float] = None,
        memory_gb_limit: Optional[float] = None,
    ) -> AksServiceDeploymentConfiguration:
        """As AksWebservice's, with one version: its name is kept and shown, and all requests are its own."""
        given = dict(locals())
        labels = {name: given.pop(name) for name in LABELS}
        _check_version(version_name, traffic_percentile)
        # It is also how a service that was found is known to be of this class.
        given["traffic_percentile"] = 100
        return AksServiceDeploymentConfiguration(aks_deployment(given), **labels)

    @property
    def traffic_percentile(self) -> int:
        """100: the one revision that answers has all requests."""
        return 100

    @property
    def versions(self) -> "Dict[str, AksEndpoint]":
        """The one that there is, by its name; where none was given, the service's own."""
        return {self._record.spec.deployment.kept.get("version_name", self.name): self}

    def create_version(self, *_: Any, **__: Any) -> None:
        """WebserviceException: one revision answers at a time."""
        raise WebserviceException(
            "One revision of a service answers at a time: update() makes a new one, rollback() goes back."
        )

    update_version = delete_version = create_version


def _check_version(name: Any, share: Any) -> None:
    if not isinstance(name, (str, type(None))):
        raise WebserviceException(f"version_name is a text, not {name!r}.")
    if share is not None and (isinstance(share, bool) or share != 100):
        raise WebserviceException(
            f"traffic_percentile is 100, not {share!r}: one revision of a service answers at a time, "
            "and update() makes the next one."
        )


#: The settings that update() takes besides its labels.
_SETTINGS = {
    one for one in inspect.signature(AksWebservice.deploy_configuration).parameters if one not in LABELS
} - {"compute_target_name"}  # fmt: skip


def _changed(before: Deployment, given: Dict[str, Any]) -> Deployment:
    """The settings that are given, in place of the present ones."""
    for name in given:
        if name not in _SETTINGS:
            raise WebserviceException(f"update() knows no setting {name!r}; it has those of deploy_configuration().")
    check_settings({**needs_of(before), **given})
    scale = before.autoscale
    if scale is not None and given.get("autoscale_enabled") is not False and "num_replicas" not in given:
        # What scales already needs no word that it should, and keeps the bounds that are not spoken of.
        present = {
            "autoscale_enabled": True, "autoscale_min_replicas": scale.min_replicas,
            "autoscale_max_replicas": scale.max_replicas, "autoscale_refresh_seconds": scale.refresh_s,
            "autoscale_target_utilization": scale.target_utilization,
        }  # fmt: skip
        asked = aks_deployment({**present, **given})
    else:
        asked = aks_deployment(dict(given))
    names = {
        "cpu_cores": "cpu", "cpu_cores_limit": "cpu_limit", "memory_gb": "memory_gb",
        "memory_gb_limit": "memory_gb_limit", "gpu_cores": "gpu",
        "scoring_timeout_ms": "timeout_s", "replica_max_concurrent_requests": "concurrent_requests",
        "num_replicas": "replicas", "max_request_wait_time": "wait_s", "enable_app_insights": "logged_share",
    }  # fmt: skip
    values = {field: getattr(asked, field) for name, field in names.items() if name in given}
    if any(name.startswith("autoscale") for name in given) or "num_replicas" in given:
        values["autoscale"] = asked.autoscale
    values["access"] = changed_access(before.access, given.get("auth_enabled"), given.get("token_auth_enabled"))
    return replace(before, kept={**before.kept, **asked.kept}, **values)
