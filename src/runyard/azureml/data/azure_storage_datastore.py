"""v1's azureml.data.azure_storage_datastore."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AzureBlobDatastore": "runyard.sdk.datastore:AzureBlobDatastore",
    },
    planned=(
        "AbstractAzureStorageDatastore",
        "AzureFileDatastore",
    ),
)
