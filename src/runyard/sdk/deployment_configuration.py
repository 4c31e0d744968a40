"""How a service is to run, in v1's parameters: one class for each of v1's kinds of deployment."""

import math
import numbers
import re
from typing import Any, Dict, Optional

from runyard.errors import WebserviceException
from runyard.protocol.services import Access, Autoscale, ComputeType, Deployment, needs_of
from runyard.sdk.labels import label_texts
from runyard.sdk.notices import say_kept

Labels = Optional[Dict[str, str]]

#: Settings that are whole numbers, with the least of each; numbers above 0; and True or False.
_WHOLE = {
    "num_replicas": 1, "replica_max_concurrent_requests": 1, "autoscale_min_replicas": 1, "autoscale_max_replicas": 1,
    "autoscale_target_utilization": 1, "gpu_cores": 0, "period_seconds": 1, "initial_delay_seconds": 1,
    "timeout_seconds": 1, "success_threshold": 1, "failure_threshold": 1,
}  # fmt: skip
_ABOVE_0 = (
    "cpu_cores", "cpu_cores_limit", "memory_gb", "memory_gb_limit", "scoring_timeout_ms", "max_request_wait_time",
    "autoscale_refresh_seconds",
)  # fmt: skip
_SWITCHES = (
    "auth_enabled", "token_auth_enabled", "autoscale_enabled", "collect_model_data", "enable_app_insights",
    "ssl_enabled", "blobfuse_enabled",
)  # fmt: skip
#: No setting is larger; what is smaller may still be too much for a server, which says so.
_MOST = 1_000_000_000
#: What is kept and does nothing here: who relies on one is told why.
_RELIED_ON = {
    "a service speaks HTTPS where its server has a certificate ('runyard up --certificate FILE --key FILE')": (
        "ssl_enabled", "ssl_cert_pem_file", "ssl_key_pem_file", "ssl_cname",
    ),
    "a service listens where its server does": ("vnet_name", "subnet_name"),
    "its files lie in the server's home, in the open": ("cmk_vault_base_url", "cmk_key_name", "cmk_key_version"),
    "no data of requests are collected; what a script prints is in get_logs()": ("collect_model_data",),
}  # fmt: skip
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


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
        check_settings({**needs_of(deployment), "gpu_cores": deployment.gpu})
        for name, key in (("primary_key", self.primary_key), ("secondary_key", self.secondary_key)):
            if not isinstance(key, (str, type(None))):
                raise WebserviceException(f"{name} is a text, not {key!r}.")
            if key is not None and deployment.access != Access.KEY:
                raise WebserviceException(f"A {name} needs auth_enabled=True.")
        if not isinstance(self.description, (str, type(None))):
            raise WebserviceException(f"description is a text, not {self.description!r}.")

    def print_deploy_configuration(self) -> None:
        """Print it, with what was not given at its default."""
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
    given = check_settings(given)
    names = ("cpu_cores", "memory_gb", "auth_enabled", "enable_app_insights")
    taken = {name: given.pop(name, None) for name in names}
    _say_relied_on(given)
    return Deployment(
        cpu=taken["cpu_cores"], memory_gb=taken["memory_gb"], access=access(taken["auth_enabled"], None),
        logged_share=float(bool(taken["enable_app_insights"])), kept=_kept(given),
    )  # fmt: skip


def aks_deployment(given: Dict[str, Any]) -> Deployment:
    """From AksWebservice.deploy_configuration's parameters; auth_enabled is True where nothing is said, as in v1."""
    given = check_settings(given)
    names = (
        "autoscale_enabled", "autoscale_min_replicas", "autoscale_max_replicas", "autoscale_refresh_seconds",
        "autoscale_target_utilization", "auth_enabled", "token_auth_enabled", "cpu_cores", "cpu_cores_limit",
        "memory_gb", "memory_gb_limit", "gpu_cores", "scoring_timeout_ms", "replica_max_concurrent_requests",
        "num_replicas", "max_request_wait_time", "enable_app_insights",
    )  # fmt: skip
    taken = {name: given.pop(name, None) for name in names}
    _say_relied_on(given)
    timeout_ms, replicas = taken["scoring_timeout_ms"], taken["num_replicas"]
    wait_ms, concurrent = taken["max_request_wait_time"], taken["replica_max_concurrent_requests"]
    scale = _autoscale(taken)
    asked = taken["auth_enabled"]
    return Deployment(
        cpu=taken["cpu_cores"],
        cpu_limit=taken["cpu_cores_limit"],
        memory_gb=taken["memory_gb"],
        memory_gb_limit=taken["memory_gb_limit"],
        gpu=taken["gpu_cores"],
        access=access(not taken["token_auth_enabled"] if asked is None else asked, taken["token_auth_enabled"]),
        replicas=1 if replicas is None else replicas,
        autoscale=scale,
        timeout_s=60.0 if timeout_ms is None else timeout_ms / 1000,
        wait_s=None if wait_ms is None else wait_ms / 1000,
        concurrent_requests=1 if concurrent is None else concurrent,
        logged_share=float(bool(taken["enable_app_insights"])),
        kept=_kept(given),
    )


def _autoscale(taken: Dict[str, Any]) -> Optional[Autoscale]:
    """v1 refuses a number of replicas together with autoscale, and its settings without it."""
    names = (
        "autoscale_min_replicas", "autoscale_max_replicas", "autoscale_refresh_seconds", "autoscale_target_utilization",
    )  # fmt: skip
    if not taken["autoscale_enabled"]:
        for name in names:
            if taken[name] is not None:
                raise WebserviceException(f"{name} needs autoscale_enabled=True.")
        return None
    if taken["num_replicas"] is not None:
        raise WebserviceException("num_replicas cannot be given where autoscale_enabled is True.")
    least, most, refresh_s, percent = (taken[name] for name in names)
    return Autoscale(
        1 if least is None else least, max(10, least or 0) if most is None else most,
        1.0 if refresh_s is None else refresh_s, 70 if percent is None else percent,
    )  # fmt: skip


def check_settings(given: Dict[str, Any]) -> Dict[str, Any]:
    """The settings by v1's names, numbers as Python's own; WebserviceException says which one cannot be, and why."""
    checked = {name: _checked(name, value) for name, value in given.items()}
    for name in ("cpu_cores", "memory_gb"):
        least, limit = checked.get(name), checked.get(name + "_limit")
        if least is not None and limit is not None and limit < least:
            raise WebserviceException(f"{name}_limit is a number of at least {least:g}, as {name} is, not {limit:g}.")
    return checked


def _checked(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise WebserviceException(f"{name} is True or False, not {value!r}.")
    elif name in _WHOLE:
        least = _WHOLE[name]
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not (is_whole and least <= value <= _MOST):
            raise WebserviceException(f"{name} is a whole number of at least {least}, not {_short(value)}.")
        return int(value)
    elif name in _ABOVE_0:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (is_number and 0 < value <= _MOST and math.isfinite(value)):
            raise WebserviceException(f"{name} is a number above 0, not {_short(value)}.")
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    elif name == "namespace" and not (isinstance(value, str) and _NAMESPACE.fullmatch(value)):
        raise WebserviceException(
            f"namespace has 1 to 63 lower-case letters, digits or '-', and no '-' at its ends, unlike {_short(value)}."
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


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


def changed_access(before: Optional[str], by_key: Optional[bool], by_token: Optional[bool]) -> Optional[str]:
    """Who may ask from now on: what is asked for ends the other way, and what is not spoken of stays."""
    access(by_key, by_token)
    if by_key or by_token:
        return Access.KEY if by_key else Access.TOKEN
    ended = {Access.KEY} if by_key is False else set()
    ended |= {Access.TOKEN} if by_token is False else set()
    is_ended = before in ended or (before is None and by_key is False)
    return Access.OPEN if is_ended else before


def _say_relied_on(given: Dict[str, Any]) -> None:
    for why, names in _RELIED_ON.items():
        say_kept([name for name in names if given.get(name)], why)


def _kept(given: Dict[str, Any]) -> Dict[str, str]:
    """Settings of Azure's that mean nothing here: taken, and shown again."""
    return {name: str(value) for name, value in given.items() if value is not None}
