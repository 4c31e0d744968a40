"""v1's azureml.core.compute.dsvm."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DsvmCompute": "runyard.sdk.foreign_compute:DsvmCompute",
    },
)
