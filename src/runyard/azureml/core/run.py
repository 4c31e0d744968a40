"""v1's azureml.core.run."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "_OfflineRun": "runyard.sdk.offline_run:OfflineRun",
        "Run": "runyard.sdk.run:Run",
    },
)
