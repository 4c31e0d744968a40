"""v1's azureml.core.authentication."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "InteractiveLoginAuthentication": "runyard.sdk.authentication:InteractiveLoginAuthentication",
        "ServicePrincipalAuthentication": "runyard.sdk.authentication:ServicePrincipalAuthentication",
    },
    planned=(
        "AbstractAuthentication",
        "Audience",
        "AzureCliAuthentication",
        "MsiAuthentication",
        "TokenAuthentication",
    ),
)
