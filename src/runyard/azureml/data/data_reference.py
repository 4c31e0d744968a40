"""v1's azureml.data.data_reference."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DataReference": "runyard.sdk.data_reference:DataReference",
    },
)
