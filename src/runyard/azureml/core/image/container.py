"""v1's azureml.core.image.container."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ContainerImage": "runyard.sdk.container_image:ContainerImage",
    },
)
