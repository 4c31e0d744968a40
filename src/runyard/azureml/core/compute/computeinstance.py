"""v1's azureml.core.compute.computeinstance."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ComputeInstance": "runyard.sdk.compute_instance:ComputeInstance",
    },
)
