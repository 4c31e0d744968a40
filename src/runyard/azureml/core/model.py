"""v1's azureml.core.model."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "InferenceConfig": "runyard.sdk.inference_config:InferenceConfig",
        "Model": "runyard.sdk.model:Model",
        "ModelPackage": "runyard.sdk.model_package:ModelPackage",
        "ResourceConfiguration": "runyard.sdk.resource_configuration:ResourceConfiguration",
    },
)
