"""v1's azureml.data."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DataType": "runyard.sdk.tabular_types:DataType",
        "FileDataset": "runyard.sdk.file_dataset:FileDataset",
        "OutputFileDatasetConfig": "runyard.sdk.output_dataset:OutputFileDatasetConfig",
        "TabularDataset": "runyard.sdk.tabular_dataset:TabularDataset",
    },
)
