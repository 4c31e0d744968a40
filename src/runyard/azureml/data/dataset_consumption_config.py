"""v1's azureml.data.dataset_consumption_config."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "DatasetConsumptionConfig": "runyard.sdk.dataset_consumption:DatasetConsumptionConfig",
    },
)
