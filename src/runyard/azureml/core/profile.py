"""v1's azureml.core.profile."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ModelProfile": "runyard.sdk.model_profile:ModelProfile",
    },
)
