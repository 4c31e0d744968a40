"""v1's azureml.core.webservice.aci."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AciServiceDeploymentConfiguration": "runyard.sdk.deployment_configuration:AciServiceDeploymentConfiguration",
        "AciWebservice": "runyard.sdk.aci_webservice:AciWebservice",
    },
)
