"""v1's azureml.core.compute_target."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ComputeTarget": "runyard.sdk.compute_target:ComputeTarget",
        "ComputeTargetException": "runyard.errors:ComputeTargetException",
    },
)
