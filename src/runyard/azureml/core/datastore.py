"""v1's azureml.core.datastore."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Datastore": "runyard.sdk.datastore:Datastore",
    },
)
