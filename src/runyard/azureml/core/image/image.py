"""v1's azureml.core.image.image."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Image": "runyard.sdk.container_image:Image",
    },
)
