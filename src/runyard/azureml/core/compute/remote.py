"""v1's azureml.core.compute.remote."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "RemoteCompute": "runyard.sdk.remote_compute:RemoteCompute",
    },
)
