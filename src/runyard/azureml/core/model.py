"""v1's azureml.core.model."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Model": "runyard.sdk.model:Model",
        "ResourceConfiguration": "runyard.sdk.resource_configuration:ResourceConfiguration",
    },
    planned=(
        "InferenceConfig",
        "ModelProfile",
    ),
)
