"""What every way of v1's to deploy comes down to: models, a script or none, and settings become a service."""

from dataclasses import replace
from typing import Any, List, Optional, Sequence

from runyard.errors import ConflictError, UserErrorException, WebserviceException
from runyard.protocol import services
from runyard.protocol.scoring import DISTRIBUTIONS
from runyard.sdk.deployment_configuration import AciServiceDeploymentConfiguration, WebserviceDeploymentConfiguration
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.webservice import Webservice
from runyard.sdk.workspace import Workspace


def deploy(
    workspace: Workspace,
    name: str,
    models: Sequence[Model],
    inference_config: Optional[InferenceConfig] = None,
    deployment_config: Optional[WebserviceDeploymentConfiguration] = None,
    deployment_target: Any = None,
    overwrite: bool = False,
    entry: Optional[services.EntryScript] = None,
) -> Webservice:
    """Deploy models; what every way of v1's comes down to. WebserviceException where the name is taken.

    ``entry``: a script that the server has already, of another service.
    """
    _check_kinds(name, inference_config, deployment_config)
    config = deployment_config or AciServiceDeploymentConfiguration(services.Deployment())
    config.validate_configuration()
    deployment = config.deployment
    found = check_models(models)
    target = _target_name(deployment_target)
    if target:
        deployment = replace(deployment, target=target)
    if inference_config is not None:
        entry = inference_config.send(workspace)
    if entry is None:
        check_no_code(found)
    if len(found) == 1:
        deployment = _with_needs(deployment, found[0])
    spec = services.ServiceSpec(
        name=name,
        compute_type=config.compute_type,
        models=tuple(one.id for one in found),
        entry=entry,
        deployment=deployment,
        description=config.description or (inference_config.description if inference_config else None) or "",
        tags=config.tags,
        properties=config.properties,
        overwrite=overwrite,
        primary_key=config.primary_key,
        secondary_key=config.secondary_key,
    )
    try:
        made = Webservice(workspace, _record=workspace._call("deploy_service", spec))
    except ConflictError as error:
        raise WebserviceException(str(error)) from None
    made._inference_config = inference_config
    return made


def print_configuration(models: Any, inference_config: Any, deployment_config: Any, deployment_target: Any) -> None:
    """Print what ``deploy`` would be given, a line for each part of it that there is."""
    _check_kinds("", inference_config, deployment_config)
    target = _target_name(deployment_target) or getattr(deployment_target, "name", "")
    found = [one.id for one in check_models(models)]
    lines = [f"Models: {found}"] if found else []
    lines += [f"Compute target: {target}"] if target else []
    if inference_config is not None:
        environment = inference_config.build_environment()
        lines += [f"Entry script: {inference_config.entry_script}", f"Environment: {environment.name}"]
    for line in lines:
        print(line)
    if deployment_config is not None:
        deployment_config.print_deploy_configuration()


def check_models(models: Any) -> List[Model]:
    """They as a list; UserErrorException for what is no Model."""
    found: List[Any] = [models] if isinstance(models, (Model, str)) else list(models or ())
    for one in found:
        if not isinstance(one, Model):
            raise UserErrorException(
                f"models is a list of Model objects, and {one!r} is none; Model(workspace, name) finds one by its name."
            )
    return found


def _check_kinds(name: Any, inference_config: Any, deployment_config: Any) -> None:
    if not isinstance(name, str):
        raise UserErrorException(f"A service's name is a text, not {name!r}.")
    if not isinstance(inference_config, (InferenceConfig, type(None))):
        raise UserErrorException(f"inference_config is an InferenceConfig, not {inference_config!r}.")
    if not isinstance(deployment_config, (WebserviceDeploymentConfiguration, type(None))):
        raise UserErrorException(
            f"deployment_config is what AciWebservice.deploy_configuration() gives, not {deployment_config!r}."
        )


def _target_name(target: Any) -> str:
    """The cluster whose runs the replicas are; '' for what v1 had as a target and is this server's host here."""
    record = getattr(target, "_record", None)
    if target is not None and record is None:
        raise UserErrorException(
            f"deployment_target is a compute target, not {target!r}: ComputeTarget(workspace, name) finds one."
        )
    return "" if record is None or record.spec.engine is None else str(record.spec.name)


def check_no_code(models: Sequence[Model]) -> None:
    """UserErrorException where models cannot go without an InferenceConfig."""
    if len(models) != 1:
        raise UserErrorException(
            f"Without an inference_config exactly one model is deployed, not {len(models)}; give an InferenceConfig."
        )
    if models[0].model_framework not in DISTRIBUTIONS:
        raise UserErrorException(
            f"Model {models[0].id} has the framework {models[0].model_framework}, which needs an InferenceConfig with "
            f"an entry script; or register it with one of {', '.join(DISTRIBUTIONS)}."
        )


def _with_needs(deployment: services.Deployment, model: Model) -> services.Deployment:
    """What the model's resource_configuration asks for, where the deployment says nothing."""
    needs = model.resource_configuration
    if needs is None:
        return deployment
    return replace(
        deployment,
        cpu=needs.cpu if deployment.cpu is None else deployment.cpu,
        memory_gb=needs.memory_in_gb if deployment.memory_gb is None else deployment.memory_gb,
        gpu=needs.gpu if deployment.gpu is None else deployment.gpu,
    )
