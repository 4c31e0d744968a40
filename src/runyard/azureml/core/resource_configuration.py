"""v1's azureml.core.resource_configuration."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ResourceConfiguration": "runyard.sdk.resource_configuration:ResourceConfiguration",
    },
)
