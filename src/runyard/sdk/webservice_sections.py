"""What v1 gives of a service as objects: what its containers ask for, how it scales, its probe, a token."""

from datetime import datetime
from typing import Any, Dict, Optional

from runyard.protocol.services import Deployment


class ContainerResourceRequirements:
    """What a replica asks for; None: no wish."""

    def __init__(
        self,
        cpu: Optional[float],
        memory_in_gb: Optional[float],
        gpu: Optional[int] = None,
        cpu_limit: Optional[float] = None,
        memory_in_gb_limit: Optional[float] = None,
    ) -> None:
        self.cpu = cpu
        self.cpu_limit = cpu_limit
        self.memory_in_gb = memory_in_gb
        self.memory_in_gb_limit = memory_in_gb_limit
        self.gpu = gpu

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "cpu": self.cpu, "cpuLimit": self.cpu_limit, "memoryInGB": self.memory_in_gb,
            "memoryInGBLimit": self.memory_in_gb_limit, "gpu": self.gpu,
        }  # fmt: skip


class LivenessProbeRequirements:
    """What was asked of Kubernetes' probe, which is not needed here; None: nothing was."""

    def __init__(
        self,
        period_seconds: Optional[int],
        initial_delay_seconds: Optional[int],
        timeout_seconds: Optional[int],
        success_threshold: Optional[int],
        failure_threshold: Optional[int],
    ) -> None:
        self.period_seconds = period_seconds
        self.initial_delay_seconds = initial_delay_seconds
        self.timeout_seconds = timeout_seconds
        self.success_threshold = success_threshold
        self.failure_threshold = failure_threshold

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "periodSeconds": self.period_seconds, "initialDelaySeconds": self.initial_delay_seconds,
            "timeoutSeconds": self.timeout_seconds, "successThreshold": self.success_threshold,
            "failureThreshold": self.failure_threshold,
        }  # fmt: skip


class AutoScaler:
    """How many replicas there are; the numbers are None where autoscale is off."""

    def __init__(
        self,
        autoscale_enabled: bool,
        max_replicas: Optional[int],
        min_replicas: Optional[int],
        refresh_period_seconds: Optional[float],
        target_utilization: Optional[int],
    ) -> None:
        self.autoscale_enabled = autoscale_enabled
        self.max_replicas = max_replicas
        self.min_replicas = min_replicas
        self.refresh_period_seconds = refresh_period_seconds
        self.target_utilization = target_utilization

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "autoscaleEnabled": self.autoscale_enabled, "minReplicas": self.min_replicas,
            "maxReplicas": self.max_replicas, "refreshPeriodInSeconds": self.refresh_period_seconds,
            "targetUtilization": self.target_utilization,
        }  # fmt: skip


class AksServiceAccessToken:
    """Lets in until ``expiry_on``; another one should be fetched after ``refresh_after``."""

    def __init__(self, access_token: str, token_type: str, refresh_after: datetime, expiry_on: datetime) -> None:
        self.access_token = access_token
        self.token_type = token_type
        self.refresh_after = refresh_after
        self.expiry_on = expiry_on


def requirements_of(deployment: Deployment) -> ContainerResourceRequirements:
    """What a replica is to have, and at most."""
    return ContainerResourceRequirements(
        deployment.cpu, deployment.memory_gb, deployment.gpu, deployment.cpu_limit,
        deployment.memory_gb_limit,
    )  # fmt: skip


def probe_of(deployment: Deployment) -> LivenessProbeRequirements:
    """As it was given."""
    names = ("period_seconds", "initial_delay_seconds", "timeout_seconds", "success_threshold", "failure_threshold")
    numbers = [kept_number(deployment, name) for name in names]
    return LivenessProbeRequirements(*(None if one is None else int(one) for one in numbers))


def autoscaler_of(deployment: Deployment) -> AutoScaler:
    """Off where the number of replicas is fixed."""
    scale = deployment.autoscale
    if scale is None:
        return AutoScaler(False, None, None, None, None)
    return AutoScaler(True, scale.max_replicas, scale.min_replicas, scale.refresh_s, scale.target_utilization)


def kept_number(deployment: Deployment, name: str) -> Optional[float]:
    """A number that was given and means nothing here; None where none was, or another client kept no number."""
    try:
        return float(deployment.kept[name])
    except (KeyError, ValueError):
        return None
