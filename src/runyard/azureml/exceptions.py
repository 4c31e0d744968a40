"""v1's azureml.exceptions: Runyard's tree of errors, whose classes carry v1's names."""

from runyard.azureml._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    globals(),
    {
        "ActivityFailedException": "runyard.errors:ActivityFailedException",
        "AuthenticationException": "runyard.errors:AuthenticationException",
        "AzureMLException": "runyard.errors:AzureMLException",
        "ComputeTargetException": "runyard.errors:ComputeTargetException",
        "DatasetTimestampMissingError": "runyard.errors:DatasetTimestampMissingError",
        "ExperimentExecutionException": "runyard.errors:ExperimentExecutionException",
        "HyperDriveConfigException": "runyard.errors:HyperDriveConfigException",
        "ModelNotFoundException": "runyard.errors:ModelNotFoundException",
        "RunEnvironmentException": "runyard.errors:RunEnvironmentException",
        "ServiceException": "runyard.errors:ServiceException",
        "SnapshotException": "runyard.errors:SnapshotException",
        "RunConfigurationException": "runyard.errors:RunConfigurationException",
        "TrainingException": "runyard.errors:TrainingException",
        "UserErrorException": "runyard.errors:UserErrorException",
        "WebserviceException": "runyard.errors:WebserviceException",
    },
)
