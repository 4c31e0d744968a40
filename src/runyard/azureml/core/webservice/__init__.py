"""v1's azureml.core.webservice."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AciWebservice": "runyard.sdk.aci_webservice:AciWebservice",
        "AksEndpoint": "runyard.sdk.aks_webservice:AksEndpoint",
        "AksWebservice": "runyard.sdk.aks_webservice:AksWebservice",
        "LocalWebservice": "runyard.sdk.local_webservice:LocalWebservice",
        "Webservice": "runyard.sdk.webservice:Webservice",
    },
)
