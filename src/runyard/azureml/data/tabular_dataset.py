"""v1's azureml.data.tabular_dataset."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "TabularDataset": "runyard.sdk.tabular_dataset:TabularDataset",
    },
)
