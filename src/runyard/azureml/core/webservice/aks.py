"""v1's azureml.core.webservice.aks."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AksEndpoint": "runyard.sdk.aks_webservice:AksEndpoint",
        "AksServiceAccessToken": "runyard.sdk.webservice_sections:AksServiceAccessToken",
        "AksServiceDeploymentConfiguration": "runyard.sdk.deployment_configuration:AksServiceDeploymentConfiguration",
        "AksWebservice": "runyard.sdk.aks_webservice:AksWebservice",
    },
)
