"""Webservice: a deployed model, in v1's words. ``Webservice(ws, name)`` is one that exists."""

import json
import sys
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from runyard.errors import NotFoundError, UserErrorException, WebserviceException
from runyard.protocol import services
from runyard.protocol.services import Access, ComputeType, ServiceState
from runyard.sdk.deployment_configuration import WebserviceDeploymentConfiguration
from runyard.sdk.inference_config import InferenceConfig, of_image, of_image_config
from runyard.sdk.labels import has_labels, label_texts
from runyard.sdk.model import Model
from runyard.sdk.scoring_request import Answer, post
from runyard.sdk.times import utc_time
from runyard.sdk.workspace import Workspace

#: How long wait_for_deployment waits where nobody says; and how often it looks in the first second and later, seconds.
DEPLOYMENT_TIMEOUT_S = 7_200.0
LOOK_S, LOOK_MAX_S = 0.02, 1.0
#: How long a deleted service may take to be gone, here and with runs of a cluster, seconds.
DELETE_TIMEOUT_S, DELETE_RUNS_TIMEOUT_S = 30.0, 180.0


class Webservice:
    """A service of a workspace; NotFound is a WebserviceException, as in v1."""

    def __new__(cls, workspace: Workspace, name: str = "", *more: Any, **kwargs: Any) -> "Webservice":
        """The class of its own kind."""
        record = kwargs.get("_record") or cls._found(workspace, name, *more, **kwargs)
        made: Webservice = object.__new__(_class_of(record, cls))
        made._record = record
        return made

    @classmethod
    def _found(cls, workspace: Workspace, name: str) -> services.Service:
        return _find(workspace, name)

    def __init__(self, workspace: Workspace, name: str = "", *_: Any, **__: Any) -> None:
        self.workspace = workspace
        self._record: services.Service
        #: As it was deployed by this object; None for a service that was found.
        self._inference_config: Optional[InferenceConfig] = None

    @property
    def name(self) -> str:
        """The service's name."""
        return self._record.spec.name

    @property
    def compute_type(self) -> str:
        """ACI, AKS or Local, as it was deployed."""
        return self._record.spec.compute_type

    @property
    def state(self) -> str:
        """Transitioning, Healthy, Unhealthy, Failed or Deleting, as of the last look."""
        return self._record.state

    @property
    def deployment_status(self) -> str:
        """As ``state``."""
        return self.state

    @property
    def error(self) -> Optional[Dict[str, str]]:
        """Why it failed: code and message; None where it did not."""
        if not self._record.error:
            return None
        return {"code": "DeploymentFailed", "message": self._record.error}

    @property
    def scoring_uri(self) -> str:
        """Where requests are posted."""
        return self._record.scoring_uri

    @property
    def swagger_uri(self) -> str:
        """What requests and answers look like."""
        return self._record.swagger_uri

    @property
    def auth_enabled(self) -> bool:
        """Is a key needed?"""
        return self._access == Access.KEY

    @property
    def token_auth_enabled(self) -> bool:
        """Is a token needed?"""
        return self._access == Access.TOKEN

    @property
    def _access(self) -> str:
        return self._record.access

    @property
    def environment(self) -> Any:
        """The entry script's Environment; None without one."""
        from runyard.sdk.environment import Environment

        entry = self._record.spec.entry
        return None if entry is None else Environment._of(entry.environment)

    @property
    def tags(self) -> Dict[str, str]:
        """The service's tags."""
        return dict(self._record.spec.tags)

    @property
    def properties(self) -> Dict[str, str]:
        """The service's properties."""
        return dict(self._record.spec.properties)

    @property
    def description(self) -> str:
        """A text about it."""
        return self._record.spec.description

    @property
    def models(self) -> List[Model]:
        """The models in it."""
        return [Model(self.workspace, id=one) for one in self._record.spec.models]

    @property
    def created_by(self) -> str:
        """Who deployed it."""
        return self._record.created_by

    @property
    def created_time(self) -> Any:
        """When it was deployed first, as a UTC datetime."""
        return utc_time(self._record.created_at) if self._record.id else None

    @property
    def updated_time(self) -> Any:
        """When it changed last, as a UTC datetime."""
        return utc_time(self._record.updated_at) if self._record.id else None

    @property
    def num_replicas(self) -> int:
        """How many replicas have the model loaded."""
        return self._record.replicas

    # Deploying.

    @staticmethod
    def deploy_from_model(
        workspace: Workspace,
        name: str,
        models: Sequence[Model],
        image_config: Any,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        deployment_target: Any = None,
        overwrite: bool = False,
    ) -> "Webservice":
        """v1's older way: an image's configuration is an entry script with its environment."""
        from runyard.sdk.deployment import deploy

        config = of_image_config(image_config)
        return deploy(workspace, name, models, config, deployment_config, deployment_target, overwrite)

    @staticmethod
    def deploy_from_image(
        workspace: Workspace,
        name: str,
        image: Any,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        deployment_target: Any = None,
        overwrite: bool = False,
    ) -> "Webservice":
        """v1's older way: an image is its models and its configuration."""
        from runyard.sdk.deployment import deploy

        config = of_image(image)
        return deploy(workspace, name, image.models, config, deployment_config, deployment_target, overwrite)

    @staticmethod
    def deploy(
        workspace: Workspace,
        name: str,
        model_paths: Sequence[str],
        image_config: Any,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        deployment_target: Any = None,
        overwrite: bool = False,
    ) -> "Webservice":
        """v1's oldest way: files are registered as models first, each by its own name."""
        import os

        from runyard.sdk.deployment import deploy

        models = [Model.register(workspace, one, os.path.basename(one.rstrip("/"))) for one in model_paths]
        config = of_image_config(image_config)
        return deploy(workspace, name, models, config, deployment_config, deployment_target, overwrite)

    @staticmethod
    def deploy_local_from_model(
        workspace: Workspace,
        name: str,
        models: Sequence[Model],
        image_config: Any,
        deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
        wait: bool = False,
    ) -> "Webservice":
        """v1's older way to a LocalWebservice."""
        from runyard.sdk.local_webservice import LocalWebservice

        made = LocalWebservice(workspace, name, must_exist=False)
        made.update(models, image_config, deployment_config or LocalWebservice.deploy_configuration(), wait)
        return made

    @staticmethod
    def check_for_existing_webservice(
        workspace: Workspace, name: str, overwrite: bool = False, request_func: Any = None, check_func: Any = None
    ) -> None:
        """WebserviceException where the name is taken and not to be overwritten."""
        if not (request_func is None and check_func is None):
            raise WebserviceException("request_func and check_func are Azure's own: the server is asked for the name.")
        if not overwrite and name in workspace.webservices:
            raise WebserviceException(f"Service {name!r} exists already; pass overwrite=True, or take another name.")

    @staticmethod
    def list(
        workspace: Workspace,
        compute_type: Optional[str] = None,
        image_name: Optional[str] = None,
        image_id: Optional[str] = None,
        model_name: Optional[str] = None,
        model_id: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        image_digest: Optional[str] = None,
    ) -> "List[Webservice]":
        """The workspace's services by name; each condition that is given must hold, and none can be of an image."""
        if not (image_name is None and image_id is None and image_digest is None):
            from runyard.sdk.container_image import not_kept

            raise not_kept("A list of an image's services")
        kinds = (ComputeType.ACI, ComputeType.AKS, ComputeType.LOCAL)
        if compute_type is not None and str(compute_type).lower() not in [one.lower() for one in kinds]:
            raise WebserviceException(f"compute_type is one of {', '.join(kinds)}, not {compute_type!r}.")
        found = []
        for one in workspace._call("list_services"):
            names = [model.rpartition(":")[0] for model in one.spec.models]
            fits = [
                compute_type is None or one.spec.compute_type.lower() == compute_type.lower(),
                model_name is None or model_name in names,
                model_id is None or model_id in one.spec.models,
                has_labels(one.spec.tags, tags),
                has_labels(one.spec.properties, properties),
            ]
            if all(fits):
                found.append(Webservice(workspace, _record=one))
        return found

    def wait_for_deployment(self, show_output: bool = False, timeout_sec: Optional[float] = None) -> None:
        """Wait until it answers; WebserviceException with what its log says where it fails."""
        began = time.monotonic()
        until = began + (DEPLOYMENT_TIMEOUT_S if timeout_sec is None else timeout_sec)
        pause_s, shown = LOOK_S, ""
        while True:
            self._look()
            if show_output:
                shown = _show(self._record, shown)
            if not self._is_moving():
                break
            if time.monotonic() > until:
                raise WebserviceException(f"Service {self.name!r} is not there yet: {_wait_of(self._record)}")
            time.sleep(pause_s)
            if time.monotonic() - began > LOOK_MAX_S:
                # Most models are there by now; others take their time.
                pause_s = min(LOOK_MAX_S, pause_s * 1.2)
        is_well = self._record.state == ServiceState.HEALTHY and not self._record.error
        if show_output:
            sys.stdout.write(f"{'Succeeded' if is_well else 'Failed'}\n")
            kind = self.compute_type
            sys.stdout.write(
                f'{kind} service creation operation finished, operation "{"Succeeded" if is_well else "Failed"}"\n'
            )
            sys.stdout.flush()
        if not is_well:
            raise WebserviceException(_failure(self._record))

    def _is_moving(self) -> bool:
        record = self._record
        if record.state in (ServiceState.TRANSITIONING, ServiceState.DELETING):
            return True
        return record.state == ServiceState.HEALTHY and record.serving_revision != record.revision

    def update_deployment_state(self) -> None:
        """Look at it again."""
        self._look()

    def _look(self) -> None:
        self._record = _find(self.workspace, self.name)

    # Asking.

    def run(self, input: Union[str, bytes, None] = None, input_data: Union[str, bytes, None] = None) -> Any:
        """Post to the scoring address; returns the decoded JSON. A 401 is tried again with a fresh key.

        ``input_data`` is v1's other name for it. WebserviceException with the status, headers and content where the
        answer is not 200, and with its error where the service has failed.
        """
        asked = input if input_data is None else input_data
        data = asked.encode("utf-8") if isinstance(asked, str) else asked
        if not isinstance(data, (bytes, bytearray)):
            raise WebserviceException("run() takes a str or bytes: json.dumps({...}).")
        if not self.scoring_uri or self._record.state != ServiceState.HEALTHY:
            self._look()
        if self._record.state == ServiceState.FAILED:
            # Its address says only that the service has failed.
            raise WebserviceException(_failure(self._record))
        if not self.scoring_uri:
            raise WebserviceException(f"Service {self.name!r} is {self.state} and has no address yet.")
        status, headers, content = self._post(bytes(data))
        if status == 401:
            self._secret = ""
            status, headers, content = self._post(bytes(data))
        if status != 200:
            raise WebserviceException(
                f"Received bad response from service:\nResponse Code: {status}\nHeaders: {dict(headers)}\n"
                f"Content: {content[:4000]!r}"
            )
        try:
            return json.loads(content.decode("utf-8"))
        except ValueError:
            return content

    _secret = ""

    def _post(self, data: bytes) -> Answer:
        if self._access != Access.OPEN and not self._secret:
            self._secret = self.get_keys()[0] if self.auth_enabled else self.get_token()[0]
        return post(self.scoring_uri, data, self._secret)

    def get_logs(self, num_lines: int = 5000, init: bool = False) -> str:
        """The last lines of what its processes and its preparation have said."""
        data: bytes = self._ask("read_service_log", query={"lines": num_lines})
        return data.decode("utf-8", "replace")

    def get_keys(self) -> Tuple[str, str]:
        """(primary, secondary)."""
        found = self._ask("get_service_keys")
        return found.primary, found.secondary

    def regen_key(self, key: str, set_key: Optional[str] = None) -> None:
        """A new Primary or Secondary key, or the one that is given."""
        self._ask("change_service_key", services.KeyChange(str(key), set_key))

    def get_token(self) -> Tuple[str, Any]:
        """(token, when to fetch the next one); WebserviceException where it takes none."""
        found = self._ask("create_service_token")
        return found.token, utc_time(found.refresh_after)

    # Changing.

    def add_tags(self, tags: Dict[str, str]) -> None:
        """Add tags."""
        self._change(services.ServiceChange(tags={**self.tags, **label_texts(tags)}))

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Take tags away."""
        gone = [tags] if isinstance(tags, str) else list(tags)
        self._change(services.ServiceChange(tags={key: value for key, value in self.tags.items() if key not in gone}))

    def add_properties(self, properties: Dict[str, str]) -> None:
        """Add properties; one that exists cannot change."""
        for key, value in label_texts(properties).items():
            if self.properties.get(key, value) != value:
                raise WebserviceException(f"The property {key!r} is there already and cannot change.")
        self._change(services.ServiceChange(properties={**self.properties, **label_texts(properties)}))

    def rollback(self) -> None:
        """Go one step back, to what answered before; the present revision answers until that can. Not in v1.

        It becomes a new revision, so that a second call takes the first back: nothing further back is reached by it.
        """
        self._change(services.ServiceChange(rollback=True))

    def delete(self) -> None:
        """End it; its name is free when this returns."""
        self._ask("delete_service")
        has_runs = bool(self._record.spec.deployment.target or self._record.replica_runs)
        until = time.monotonic() + (DELETE_RUNS_TIMEOUT_S if has_runs else DELETE_TIMEOUT_S)
        while time.monotonic() < until:
            try:
                self._look()
            except WebserviceException:
                return
            time.sleep(LOOK_S)
        raise WebserviceException(f"Service {self.name!r} is being deleted and not gone yet; try again.")

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "name": self.name, "description": self.description, "tags": self.tags, "properties": self.properties,
            "state": self.state, "computeType": self.compute_type, "scoringUri": self.scoring_uri,
            "swaggerUri": self.swagger_uri, "authEnabled": self.auth_enabled, "error": self.error,
            "createdTime": self.created_time and self.created_time.isoformat(),
            "updatedTime": self.updated_time and self.updated_time.isoformat(),
            "createdBy": self.created_by, "models": list(self._record.spec.models),
        }  # fmt: skip

    def _update(
        self,
        models: Optional[Sequence[Model]],
        config: Optional[InferenceConfig],
        image: Any = None,
        deployment: Optional[services.Deployment] = None,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
    ) -> None:
        """What each kind's ``update`` comes down to: what is given changes; an image is its models and its script."""
        from runyard.sdk.deployment import check_models

        if all(one is None for one in (models, config, image, deployment, description, tags, properties)):
            raise WebserviceException(
                "update() was given nothing to change: it takes models, inference_config, settings."
            )
        if image is not None:
            config, models = of_image(image), image.models
        if not isinstance(config, (InferenceConfig, type(None))):
            raise WebserviceException(f"inference_config is an InferenceConfig, not {config!r}.")
        self._change(
            services.ServiceChange(
                models=None if models is None else tuple(one.id for one in check_models(models)),
                entry=None if config is None else config.send(self.workspace),
                deployment=deployment,
                description=description,
                tags=None if tags is None else label_texts(tags),
                properties=None if properties is None else {**self.properties, **label_texts(properties)},
            )
        )
        self._inference_config = config or self._inference_config

    def _change(self, change: services.ServiceChange) -> None:
        self._record = self._ask("change_service", change)

    def _ask(self, operation: str, body: Any = None, query: Optional[Dict[str, Any]] = None) -> Any:
        """Call the server about this service; what it refuses is a WebserviceException, as in v1."""
        try:
            return self.workspace._call(operation, body, query, name=self.name)
        except (UserErrorException, NotFoundError) as error:
            raise WebserviceException(str(error)) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(workspace={self.workspace.name!r}, name={self.name}, state={self.state})"


def _find(workspace: Workspace, name: str) -> services.Service:
    try:
        found: services.Service = workspace._call("get_service", name=name)
    except NotFoundError as error:
        raise WebserviceException(str(error)) from None
    return found


def _class_of(record: services.Service, asked: type) -> type:
    from runyard.sdk.aci_webservice import AciWebservice
    from runyard.sdk.aks_webservice import AksEndpoint, AksWebservice
    from runyard.sdk.local_webservice import LocalWebservice

    aks = AksEndpoint if "traffic_percentile" in record.spec.deployment.kept else AksWebservice
    kinds = {ComputeType.ACI: AciWebservice, ComputeType.AKS: aks, ComputeType.LOCAL: LocalWebservice}
    found = kinds[record.spec.compute_type]
    if not issubclass(found, asked) and not issubclass(asked, found):
        raise WebserviceException(
            f"Service {record.spec.name!r} is of the type {record.spec.compute_type}; use {found.__name__}."
        )
    return asked if issubclass(asked, found) else found


def _show(record: services.Service, shown: str) -> str:
    """v1's dots, and what is waited for when that changes."""
    said = record.reason or record.state
    if said != shown:
        sys.stdout.write(("\n" if shown else "") + said + " ")
    sys.stdout.write(".")
    sys.stdout.flush()
    return said


def _wait_of(record: services.Service) -> str:
    """What it is waited for."""
    if record.state == ServiceState.HEALTHY:
        return f"revision {record.revision} is being prepared, while revision {record.serving_revision} answers."
    return f"it is {record.state} ({record.reason or 'no reason given'}); see get_logs()."


def _failure(record: services.Service) -> str:
    said = record.error or record.reason or f"The service is {record.state}."
    return (
        f"Service deployment polling reached non-successful terminal state, current service state: {record.state}\n"
        f"Error:\n{said}\nMore is in get_logs(), or: runyard service logs {record.spec.name}"
    )
