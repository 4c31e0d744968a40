"""v1's azureml.core.environment."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Environment": "runyard.sdk.environment:Environment",
        "DockerSection": "runyard.sdk.environment_sections:DockerSection",
        "PythonSection": "runyard.sdk.environment_sections:PythonSection",
        "DEFAULT_CPU_IMAGE": "runyard.sdk.environment_sections:DEFAULT_CPU_IMAGE",
        "DEFAULT_GPU_IMAGE": "runyard.sdk.environment_sections:DEFAULT_GPU_IMAGE",
        "ImageBuildDetails": "runyard.sdk.environment_build:EnvironmentBuildDetails",
        "RSection": "runyard.sdk.environment_sections:RSection",
        "SparkPackage": "runyard.sdk.environment_sections:SparkPackage",
        "SparkSection": "runyard.sdk.environment_sections:SparkSection",
        "ContainerRegistry": "runyard.sdk.container_registry:ContainerRegistry",
        "DockerBuildContext": "runyard.sdk.container_registry:DockerBuildContext",
        "CondaDependencies": "runyard.sdk.conda_dependencies:CondaDependencies",
    },
)
