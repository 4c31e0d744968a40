"""v1's azureml.core.environment."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "Environment": "runyard.sdk.environment:Environment",
        "DockerSection": "runyard.sdk.environment:DockerSection",
        "PythonSection": "runyard.sdk.environment:PythonSection",
        "DEFAULT_CPU_IMAGE": "runyard.sdk.environment:DEFAULT_CPU_IMAGE",
        "DEFAULT_GPU_IMAGE": "runyard.sdk.environment:DEFAULT_GPU_IMAGE",
        "CondaDependencies": "runyard.sdk.conda_dependencies:CondaDependencies",
    },
    planned=(
        "ContainerRegistry",
        "ImageBuildDetails",
        "SparkPackage",
        "SparkSection",
    ),
)
