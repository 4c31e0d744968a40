"""v1's azureml.data."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "FileDataset": "runyard.sdk.file_dataset:FileDataset",
        "OutputFileDatasetConfig": "runyard.sdk.output_dataset:OutputFileDatasetConfig",
    },
    planned=("TabularDataset",),
)
