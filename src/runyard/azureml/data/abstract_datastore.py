"""v1's azureml.data.abstract_datastore."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AbstractDatastore": "runyard.sdk.datastore:AbstractDatastore",
    },
)
