"""LocalWebservice: a service for trying out, with v1's own words for its state and a reload of changed scripts."""

from typing import Any, List, Optional, Sequence

from runyard.errors import WebserviceException
from runyard.protocol.services import ComputeType, Deployment, ServiceChange, ServiceState
from runyard.sdk.deployment_configuration import (
    LocalWebserviceDeploymentConfiguration,
    WebserviceDeploymentConfiguration,
)
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.webservice import Webservice
from runyard.sdk.workspace import Workspace


class LocalWebservice(Webservice):
    """On the server's machine: open where that listens on loopback alone, by key beyond it."""

    STATE_DEPLOYING = "deploying"
    STATE_RUNNING = "running"
    STATE_FAILED = "failed"
    STATE_DELETED = "deleted"
    STATE_UNKNOWN = "unknown"
    NETWORK_NAME = "runyard"

    _is_deleted = False

    @staticmethod
    def deploy_configuration(port: Optional[int] = None) -> LocalWebserviceDeploymentConfiguration:
        """``port``: None takes a free one."""
        is_whole = isinstance(port, int) and not isinstance(port, bool)
        if port is not None and not (is_whole and 0 < port < 65_536):
            raise WebserviceException(f"A port is from 1 to 65535, not {port!r}.")
        return LocalWebserviceDeploymentConfiguration(Deployment(port=int(port or 0)))

    @staticmethod
    def list(  # type: ignore[override]
        workspace: Workspace, model_name: Optional[str] = None, model_id: Optional[str] = None, all: bool = True
    ) -> "List[Webservice]":
        """The workspace's services of this kind; ``all`` False leaves those out that have failed."""
        found = Webservice.list(workspace, ComputeType.LOCAL, model_name=model_name, model_id=model_id)
        return [one for one in found if all or one.state != LocalWebservice.STATE_FAILED]

    @property
    def state(self) -> str:
        """deploying, running, failed, deleted or unknown."""
        if self._is_deleted:
            return self.STATE_DELETED
        shown = {
            ServiceState.TRANSITIONING: self.STATE_DEPLOYING,
            ServiceState.HEALTHY: self.STATE_RUNNING,
            ServiceState.FAILED: self.STATE_FAILED,
            ServiceState.UNHEALTHY: self.STATE_FAILED,
        }
        return shown.get(self._record.state, self.STATE_UNKNOWN)

    @property
    def port(self) -> Optional[int]:
        """Where it listens; None before it does."""
        from urllib.parse import urlsplit

        return urlsplit(self.scoring_uri).port if self.scoring_uri else None

    def update_deployment_state(self, must_exist: bool = True) -> None:
        """Look at it again; with ``must_exist`` False one that is gone is deleted, and no error."""
        try:
            super().update_deployment_state()
        except WebserviceException:
            if must_exist:
                raise
            self._is_deleted = True

    def get_logs(self, num_lines: int = 5000, init: bool = False, raw: bool = False) -> str:
        """The last lines of what its processes and its preparation have said; ``raw`` is v1's, and changes nothing."""
        return super().get_logs(num_lines)

    def reload(self, wait: bool = False) -> None:
        """Start anew with the script as it is now, in the folder that it was deployed from."""
        config = self._inference_config
        if config is None:
            self._change(ServiceChange(restart=True))
        else:
            self._change(ServiceChange(entry=config.send(self.workspace), restart=True))
        if wait:
            self.wait_for_deployment()

    def update(
        self,
        models: Optional[Sequence[Model]] = None,
        image_config: Any = None,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        wait: bool = False,
        inference_config: Optional[InferenceConfig] = None,
    ) -> None:
        """What is given changes; its port cannot."""
        config = inference_config or (image_config.inference_config() if image_config is not None else None)
        if not isinstance(deployment_config, (LocalWebserviceDeploymentConfiguration, type(None))):
            raise WebserviceException(
                f"deployment_config is what LocalWebservice.deploy_configuration() gives, not {deployment_config!r}."
            )
        self._update(models, config, deployment=None if deployment_config is None else deployment_config.deployment)
        if wait:
            self.wait_for_deployment()

    def delete(self, delete_cache: bool = True, delete_image: bool = False, delete_volume: bool = True) -> None:
        """End it."""
        super().delete()
        self._is_deleted = True

    def deploy_to_cloud(
        self,
        name: Optional[str] = None,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        deployment_target: Any = None,
    ) -> Webservice:
        """The same models and script as a service of another kind, by default AciWebservice's."""
        from runyard.sdk.deployment import deploy

        made = deploy(
            self.workspace, name or self.name + "-aci", self.models, self._inference_config, deployment_config,
            deployment_target, entry=self._record.spec.entry,
        )  # fmt: skip
        return made
