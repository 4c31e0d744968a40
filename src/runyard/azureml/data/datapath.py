"""v1's azureml.data.datapath."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DataPath": "runyard.sdk.data_path:DataPath",
        "DataPathComputeBinding": "runyard.sdk.data_path:DataPathComputeBinding",
    },
)
