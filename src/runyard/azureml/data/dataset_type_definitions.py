"""v1's azureml.data.dataset_type_definitions."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "PromoteHeadersBehavior": "runyard.sdk.tabular_types:PromoteHeadersBehavior",
    },
)
