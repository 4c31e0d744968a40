"""LocalWebservice: a service for trying out, with v1's own words for its state and a reload of changed scripts."""

from typing import Any, List, Optional, Sequence

from runyard.errors import WebserviceException
from runyard.protocol.services import ComputeType, Deployment, Service, ServiceChange, ServiceSpec, ServiceState
from runyard.sdk.deployment_configuration import (
    LocalWebserviceDeploymentConfiguration,
    WebserviceDeploymentConfiguration,
)
from runyard.sdk.inference_config import InferenceConfig, of_image_config
from runyard.sdk.model import Model
from runyard.sdk.webservice import Webservice
from runyard.sdk.workspace import Workspace


class LocalWebservice(Webservice):
    """On the server's machine: open where that listens on loopback alone, by key beyond it.

    ``LocalWebservice(ws, name, must_exist=False)`` may name one that is not there: its ``update`` deploys it.
    """

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
        workspace: Workspace,
        model_name: Optional[str] = None,
        model_id: Optional[str] = None,
        all: Optional[bool] = None,
    ) -> "List[Webservice]":
        """The workspace's services of this kind that are running; with ``all`` the others too."""
        found = Webservice.list(workspace, ComputeType.LOCAL, model_name=model_name, model_id=model_id)
        return [one for one in found if all or one.state == LocalWebservice.STATE_RUNNING]

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

    @classmethod
    def _found(cls, workspace: Workspace, name: str, must_exist: bool = True) -> Service:
        try:
            return super()._found(workspace, name)
        except WebserviceException as error:
            if must_exist or "WebserviceNotFound" not in str(error):
                raise
        nothing = ServiceSpec(name, ComputeType.LOCAL)
        return Service("", workspace.name, nothing, state="", created_by="", created_at=0, updated_at=0)

    def update_deployment_state(self, must_exist: bool = False) -> None:
        """Look at it again; one that is not there is unknown, and with ``must_exist`` a WebserviceException."""
        self._record = self._found(self.workspace, self.name, must_exist)
        self._is_deleted = False

    def get_logs(self, num_lines: int = 5000, raw: bool = False) -> str:
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
        """What is given changes, its port apart; one that is not there is deployed."""
        config = inference_config or (None if image_config is None else of_image_config(image_config))
        if not isinstance(deployment_config, (LocalWebserviceDeploymentConfiguration, type(None))):
            raise WebserviceException(
                f"deployment_config is what LocalWebservice.deploy_configuration() gives, not {deployment_config!r}."
            )
        if self._record.id:
            self._update(models, config, deployment=None if deployment_config is None else deployment_config.deployment)
        else:
            self._deploy(models, config, deployment_config)
        if wait:
            self.wait_for_deployment()

    def _deploy(
        self,
        models: Optional[Sequence[Model]],
        config: Optional[InferenceConfig],
        deployment_config: Optional[LocalWebserviceDeploymentConfiguration],
    ) -> None:
        from runyard.sdk.deployment import deploy

        settings = deployment_config or self.deploy_configuration()
        self._record = deploy(self.workspace, self.name, models or (), config, settings)._record
        self._inference_config = config

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
