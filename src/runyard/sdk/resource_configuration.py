"""ResourceConfiguration: what a deployed model asks for."""

from typing import Any, Dict, Optional


class ResourceConfiguration:
    """CPU cores, memory in GB and GPUs; None: no wish."""

    def __init__(
        self, cpu: Optional[float] = None, memory_in_gb: Optional[float] = None, gpu: Optional[int] = None
    ) -> None:
        self.cpu = cpu
        self.memory_in_gb = memory_in_gb
        self.gpu = gpu

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {"cpu": self.cpu, "memoryInGB": self.memory_in_gb, "gpu": self.gpu}
