"""v1's azureml.core.compute."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ComputeTarget": "runyard.sdk.compute_target:ComputeTarget",
        "AmlCompute": "runyard.sdk.aml_compute:AmlCompute",
        "RayCompute": "runyard.sdk.ray_compute:RayCompute",
        "RemoteCompute": "runyard.sdk.remote_compute:RemoteCompute",
        "SlurmCompute": "runyard.sdk.slurm_compute:SlurmCompute",
        "BatchAiCompute": "runyard.sdk.batch_ai_compute:BatchAiCompute",
    },
    planned=(
        "AksCompute",
        "ComputeInstance",
        "DsvmCompute",
    ),
)
