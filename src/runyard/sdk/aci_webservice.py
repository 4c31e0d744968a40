"""AciWebservice: a service with one replica, as v1 put it into a container instance."""

from dataclasses import replace
from typing import Any, Dict, Optional, Sequence

from runyard.errors import WebserviceException
from runyard.sdk.deployment_configuration import AciServiceDeploymentConfiguration, aci_deployment, changed_access
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.webservice import Webservice
from runyard.sdk.webservice_sections import ContainerResourceRequirements, requirements_of

#: Parameters of a configuration that are no setting.
LABELS = ("tags", "properties", "description", "primary_key", "secondary_key")


class AciWebservice(Webservice):
    """One replica; anyone who reaches it may ask, unless auth_enabled, or the server listens beyond its machine."""

    @property
    def container_resource_requirements(self) -> ContainerResourceRequirements:
        """What was asked for it."""
        return requirements_of(self._record.spec.deployment)

    @property
    def enable_app_insights(self) -> bool:
        """Are requests logged?"""
        return self._record.spec.deployment.logged_share > 0

    @property
    def ssl_enabled(self) -> bool:
        """Does it speak HTTPS? It does where its server has a certificate, whatever was asked for."""
        return self.scoring_uri.startswith("https:")

    @property
    def location(self) -> Optional[str]:
        """As it was given; it runs where its server does."""
        return self._record.spec.deployment.kept.get("location")

    @property
    def cname(self) -> Optional[str]:
        """``ssl_cname`` as it was given; ``scoring_uri`` has the name that answers."""
        return self._record.spec.deployment.kept.get("ssl_cname")

    @property
    def public_ip(self) -> None:
        """None: a service has no address of its own; ``scoring_uri`` has its server's."""
        return None

    @staticmethod
    def deploy_configuration(
        cpu_cores: Optional[float] = None,
        memory_gb: Optional[float] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        location: Optional[str] = None,
        auth_enabled: Optional[bool] = None,
        ssl_enabled: Optional[bool] = None,
        enable_app_insights: Optional[bool] = None,
        ssl_cert_pem_file: Optional[str] = None,
        ssl_key_pem_file: Optional[str] = None,
        ssl_cname: Optional[str] = None,
        dns_name_label: Optional[str] = None,
        primary_key: Optional[str] = None,
        secondary_key: Optional[str] = None,
        collect_model_data: Optional[bool] = None,
        cmk_vault_base_url: Optional[str] = None,
        cmk_key_name: Optional[str] = None,
        cmk_key_version: Optional[str] = None,
        vnet_name: Optional[str] = None,
        subnet_name: Optional[str] = None,
    ) -> AciServiceDeploymentConfiguration:
        """Settings of such a service; what is Azure's own is kept and shown, and changes nothing."""
        given = dict(locals())
        labels = {name: given.pop(name) for name in LABELS}
        return AciServiceDeploymentConfiguration(aci_deployment(given), **labels)

    def update(
        self,
        image: Any = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        auth_enabled: Optional[bool] = None,
        ssl_enabled: Optional[bool] = None,
        ssl_cert_pem_file: Optional[str] = None,
        ssl_key_pem_file: Optional[str] = None,
        ssl_cname: Optional[str] = None,
        enable_app_insights: Optional[bool] = None,
        models: Optional[Sequence[Model]] = None,
        inference_config: Optional[InferenceConfig] = None,
        **kwargs: Any,
    ) -> None:
        """What is given changes; the present revision answers until the new one can."""
        settings = dict(locals())
        if kwargs:
            raise WebserviceException(f"update() of an AciWebservice knows no setting {min(kwargs)!r}.")
        names = (
            "auth_enabled",
            "ssl_enabled",
            "ssl_cert_pem_file",
            "ssl_key_pem_file",
            "ssl_cname",
            "enable_app_insights",
        )
        given = {name: settings[name] for name in names if settings[name] is not None}
        deployment = None
        if given:
            present = self._record.spec.deployment
            asked = aci_deployment(dict(given))
            share = present.logged_share if enable_app_insights is None else asked.logged_share
            access = changed_access(present.access, auth_enabled, None)
            deployment = replace(present, access=access, logged_share=share, kept={**present.kept, **asked.kept})
        self._update(models, inference_config, image, deployment, description, tags, properties)
