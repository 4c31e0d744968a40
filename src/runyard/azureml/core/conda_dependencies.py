"""v1's azureml.core.conda_dependencies."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "CondaDependencies": "runyard.sdk.conda_dependencies:CondaDependencies",
    },
)
