"""v1's azureml.data.dataset_factory."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DataType": "runyard.sdk.tabular_types:DataType",
        "FileDatasetFactory": "runyard.sdk.dataset:FileDatasetFactory",
        "TabularDatasetFactory": "runyard.sdk.tabular_factory:TabularDatasetFactory",
    },
)
