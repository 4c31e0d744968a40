"""v1's azureml.core.webservice.local."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "LocalWebservice": "runyard.sdk.local_webservice:LocalWebservice",
        "LocalWebserviceDeploymentConfiguration": (
            "runyard.sdk.deployment_configuration:LocalWebserviceDeploymentConfiguration"
        ),
    },
)
