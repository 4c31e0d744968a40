"""v1's azureml.core.compute."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ComputeTarget": "runyard.sdk.compute_target:ComputeTarget",
        "AmlCompute": "runyard.sdk.aml_compute:AmlCompute",
        "ComputeInstance": "runyard.sdk.compute_instance:ComputeInstance",
        "RayCompute": "runyard.sdk.ray_compute:RayCompute",
        "RemoteCompute": "runyard.sdk.remote_compute:RemoteCompute",
        "SlurmCompute": "runyard.sdk.slurm_compute:SlurmCompute",
        "BatchAiCompute": "runyard.sdk.batch_ai_compute:BatchAiCompute",
        "AdlaCompute": "runyard.sdk.foreign_compute:AdlaCompute",
        "AksCompute": "runyard.sdk.foreign_compute:AksCompute",
        "BatchCompute": "runyard.sdk.foreign_compute:BatchCompute",
        "DatabricksCompute": "runyard.sdk.foreign_compute:DatabricksCompute",
        "DataFactoryCompute": "runyard.sdk.foreign_compute:DataFactoryCompute",
        "DsvmCompute": "runyard.sdk.foreign_compute:DsvmCompute",
        "HDInsightCompute": "runyard.sdk.foreign_compute:HDInsightCompute",
        "KubernetesCompute": "runyard.sdk.foreign_compute:KubernetesCompute",
        "SynapseCompute": "runyard.sdk.foreign_compute:SynapseCompute",
    },
)
