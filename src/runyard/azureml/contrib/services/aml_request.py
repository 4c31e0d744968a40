"""v1's azureml.contrib.services.aml_request."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AMLRequest": "runyard.sdk.raw_http:AMLRequest",
        "rawhttp": "runyard.sdk.raw_http:rawhttp",
    },
)
