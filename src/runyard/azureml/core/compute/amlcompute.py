"""v1's azureml.core.compute.amlcompute."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "AmlCompute": "runyard.sdk.aml_compute:AmlCompute",
        "AmlComputeProvisioningConfiguration": "runyard.sdk.aml_compute:AmlComputeProvisioningConfiguration",
        "AmlComputeStatus": "runyard.sdk.aml_compute_status:AmlComputeStatus",
        "ScaleSettings": "runyard.sdk.aml_compute_status:ScaleSettings",
    },
)
