"""v1's azureml.data.dataset_factory."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "FileDatasetFactory": "runyard.sdk.dataset:FileDatasetFactory",
    },
    planned=("TabularDatasetFactory",),
)
