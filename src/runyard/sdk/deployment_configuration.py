"""How a service is to run, in v1's parameters: one class for each of v1's kinds of deployment."""

from typing import Any, Dict, Optional

from runyard.errors import WebserviceException
from runyard.protocol.services import Access, Autoscale, ComputeType, Deployment
from runyard.sdk.labels import label_texts

Labels = Optional[Dict[str, str]]


class WebserviceDeploymentConfiguration:
    """What the kinds have in common; made by each service class's ``deploy_configuration``."""

    compute_type = ComputeType.ACI

    def __init__(
        self,
        deployment: Deployment,
        description: Optional[str] = None,
        tags: Labels = None,
        properties: Labels = None,
        primary_key: Optional[str] = None,
        secondary_key: Optional[str] = None,
    ) -> None:
        self.deployment = deployment
        self.description = description
        self.tags = label_texts(tags)
        self.properties = label_texts(properties)
        self.primary_key = primary_key
        self.secondary_key = secondary_key

    def validate_configuration(self) -> None:
        """WebserviceException for values that v1 refused."""
        deployment = self.deployment
        for name, value in (("cpu_cores", deployment.cpu), ("memory_gb", deployment.memory_gb)):
            _check_number(name, value)
        if None not in (deployment.memory_gb, deployment.memory_gb_limit):
            _check_number("memory_gb_limit", deployment.memory_gb_limit, float(deployment.memory_gb or 0))
        if self.primary_key is not None and deployment.access != Access.KEY:
            raise WebserviceException("A primary_key needs auth_enabled=True.")

    def print_deploy_configuration(self) -> None:
        """Print what differs from the defaults."""
        print(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.deployment!r})"


class AciServiceDeploymentConfiguration(WebserviceDeploymentConfiguration):
    """v1's container instance: a service with one replica."""

    compute_type = ComputeType.ACI


class AksServiceDeploymentConfiguration(WebserviceDeploymentConfiguration):
    """v1's Kubernetes service: replicas, scaled by what is under way."""

    compute_type = ComputeType.AKS


class LocalWebserviceDeploymentConfiguration(WebserviceDeploymentConfiguration):
    """v1's service on the user's own machine."""

    compute_type = ComputeType.LOCAL

    @property
    def port(self) -> Optional[int]:
        """The port that was asked for."""
        return self.deployment.port or None


def aci_deployment(given: Dict[str, Any]) -> Deployment:
    """From AciWebservice.deploy_configuration's parameters."""
    taken = {name: given.pop(name, None) for name in ("cpu_cores", "memory_gb", "auth_enabled")}
    return Deployment(
        cpu=taken["cpu_cores"], memory_gb=taken["memory_gb"], access=access(taken["auth_enabled"], None),
        kept=_kept(given),
    )  # fmt: skip


def aks_deployment(given: Dict[str, Any]) -> Deployment:
    """From AksWebservice.deploy_configuration's parameters; auth_enabled is True where nothing is said, as in v1."""
    names = (
        "autoscale_enabled", "autoscale_min_replicas", "autoscale_max_replicas", "autoscale_refresh_seconds",
        "autoscale_target_utilization", "auth_enabled", "token_auth_enabled", "cpu_cores", "memory_gb",
        "memory_gb_limit", "gpu_cores", "scoring_timeout_ms", "replica_max_concurrent_requests", "num_replicas",
    )  # fmt: skip
    taken = {name: given.pop(name, None) for name in names}
    timeout_ms, replicas = taken["scoring_timeout_ms"], taken["num_replicas"]
    concurrent = taken["replica_max_concurrent_requests"]
    scale = _autoscale(taken)
    asked = taken["auth_enabled"]
    return Deployment(
        cpu=taken["cpu_cores"],
        memory_gb=taken["memory_gb"],
        memory_gb_limit=taken["memory_gb_limit"],
        gpu=taken["gpu_cores"],
        access=access(not taken["token_auth_enabled"] if asked is None else asked, taken["token_auth_enabled"]),
        replicas=1 if replicas is None else replicas,
        autoscale=scale,
        timeout_s=60.0 if timeout_ms is None else timeout_ms / 1000,
        concurrent_requests=1 if concurrent is None else concurrent,
        kept=_kept(given),
    )


def _autoscale(taken: Dict[str, Any]) -> Optional[Autoscale]:
    """v1 scales unless a number of replicas is given, and refuses both together."""
    is_on, replicas = taken["autoscale_enabled"], taken["num_replicas"]
    if is_on and replicas is not None:
        raise WebserviceException("num_replicas cannot be given where autoscale_enabled is True.")
    bounds = [taken[name] for name in ("autoscale_min_replicas", "autoscale_max_replicas")]
    if is_on is False and any(one is not None for one in bounds):
        raise WebserviceException("autoscale_min_replicas and autoscale_max_replicas need autoscale_enabled=True.")
    if is_on is False or replicas is not None or (is_on is None and all(one is None for one in bounds)):
        return None
    least, most = bounds
    refresh_s, percent = taken["autoscale_refresh_seconds"], taken["autoscale_target_utilization"]
    return Autoscale(
        1 if least is None else least, 10 if most is None else most,
        1.0 if refresh_s is None else refresh_s, 70 if percent is None else percent,
    )  # fmt: skip


def _check_number(name: str, value: Any, least: float = 0.0) -> None:
    """WebserviceException for what is no number, or too small; None is fine."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0 and value >= least):
        bounds = f"of at least {least:g}" if least else "above 0"
        raise WebserviceException(f"{name} is a number {bounds}, not {value!r}.")


def access(by_key: Optional[bool], by_token: Optional[bool]) -> Optional[str]:
    """Who may ask; None: as the server has it, where v1's caller said nothing."""
    for name, asked in (("auth_enabled", by_key), ("token_auth_enabled", by_token)):
        if not isinstance(asked, (bool, type(None))):
            raise WebserviceException(f"{name} is True or False, not {asked!r}.")
    if by_key and by_token:
        raise WebserviceException("auth_enabled and token_auth_enabled cannot both be True.")
    if by_token:
        return Access.TOKEN
    if by_key is None:
        return None
    return Access.KEY if by_key else Access.OPEN


def _kept(given: Dict[str, Any]) -> Dict[str, str]:
    """Settings of Azure's that mean nothing here: taken, and shown again."""
    return {name: str(value) for name, value in given.items() if value is not None}
