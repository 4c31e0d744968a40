"""v1's azureml.data.output_dataset_config."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "OutputFileDatasetConfig": "runyard.sdk.output_dataset:OutputFileDatasetConfig",
    },
)
