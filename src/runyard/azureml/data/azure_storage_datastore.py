"""v1's azureml.data.azure_storage_datastore."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AbstractAzureStorageDatastore": "runyard.sdk.datastore:AbstractAzureStorageDatastore",
        "AzureBlobDatastore": "runyard.sdk.datastore:AzureBlobDatastore",
        "AzureFileDatastore": "runyard.sdk.datastore:AzureFileDatastore",
    },
)
