"""v1's azureml.data.abstract_dataset."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AbstractDataset": "runyard.sdk.abstract_dataset:AbstractDataset",
    },
)
