"""v1's azureml.core.experiment."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Experiment": "runyard.sdk.experiment:Experiment",
    },
)
