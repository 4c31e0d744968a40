"""v1's azureml.contrib.services.aml_response."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AMLResponse": "runyard.sdk.raw_http:AMLResponse",
    },
)
