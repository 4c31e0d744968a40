"""v1's azureml.core.webservice.webservice."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AutoScaler": "runyard.sdk.webservice_sections:AutoScaler",
        "ContainerResourceRequirements": "runyard.sdk.webservice_sections:ContainerResourceRequirements",
        "LivenessProbeRequirements": "runyard.sdk.webservice_sections:LivenessProbeRequirements",
        "Webservice": "runyard.sdk.webservice:Webservice",
        "WebserviceDeploymentConfiguration": "runyard.sdk.deployment_configuration:WebserviceDeploymentConfiguration",
    },
)
