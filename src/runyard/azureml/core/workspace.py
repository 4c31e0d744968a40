"""v1's azureml.core.workspace."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Workspace": "runyard.sdk.workspace:Workspace",
    },
)
