"""v1's azureml.core.runconfig."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "RunConfiguration": "runyard.sdk.run_configuration:RunConfiguration",
        "DockerSection": "runyard.sdk.environment_sections:DockerSection",
        "PythonSection": "runyard.sdk.environment_sections:PythonSection",
        "MpiConfiguration": "runyard.sdk.distributed:MpiConfiguration",
        "TensorflowConfiguration": "runyard.sdk.distributed:TensorflowConfiguration",
        "PyTorchConfiguration": "runyard.sdk.distributed:PyTorchConfiguration",
        "DEFAULT_CPU_IMAGE": "runyard.sdk.environment_sections:DEFAULT_CPU_IMAGE",
        "DEFAULT_GPU_IMAGE": "runyard.sdk.environment_sections:DEFAULT_GPU_IMAGE",
        "ContainerRegistry": "runyard.sdk.container_registry:ContainerRegistry",
        "DockerConfiguration": "runyard.sdk.environment_sections:DockerConfiguration",
        "SparkSection": "runyard.sdk.environment_sections:SparkSection",
        "Environment": "runyard.sdk.environment:Environment",
        "CondaDependencies": "runyard.sdk.conda_dependencies:CondaDependencies",
        "DataReferenceConfiguration": "runyard.sdk.run_sections:DataReferenceConfiguration",
        "HistoryConfiguration": "runyard.sdk.run_sections:HistoryConfiguration",
        "HdiConfiguration": "runyard.sdk.run_sections:HdiConfiguration",
        "SparkConfiguration": "runyard.sdk.run_sections:SparkConfiguration",
        "AmlComputeConfiguration": "runyard.sdk.run_sections:AmlComputeConfiguration",
        "DataPath": "runyard.sdk.run_sections:DataPath",
        "Dataset": "runyard.sdk.run_sections:Dataset",
        "RunConfigurationException": "runyard.errors:RunConfigurationException",
        "DEFAULT_MMLSPARK_CPU_IMAGE": "runyard.sdk.environment_sections:DEFAULT_MMLSPARK_CPU_IMAGE",
        "EnvironmentDefinition": "runyard.sdk.environment:Environment",
    },
)
