"""v1's azureml.core.webservice.webservice."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Webservice": "runyard.sdk.webservice:Webservice",
        "WebserviceDeploymentConfiguration": "runyard.sdk.deployment_configuration:WebserviceDeploymentConfiguration",
    },
)
