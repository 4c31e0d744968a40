"""v1's azureml.core.container_registry."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ContainerRegistry": "runyard.sdk.container_registry:ContainerRegistry",
    },
)
