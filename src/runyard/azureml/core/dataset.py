"""v1's azureml.core.dataset."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Dataset": "runyard.sdk.dataset:Dataset",
        "PromoteHeadersBehavior": "runyard.sdk.tabular_types:PromoteHeadersBehavior",
    },
)
