"""v1's azureml.core.compute.aks."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AksCompute": "runyard.sdk.foreign_compute:AksCompute",
    },
)
