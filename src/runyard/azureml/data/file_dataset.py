"""v1's azureml.data.file_dataset."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "FileDataset": "runyard.sdk.file_dataset:FileDataset",
    },
)
