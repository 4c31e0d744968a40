"""Every error that Runyard raises on purpose, in one tree; v1's names where v1 had one.

    RunyardError
    └── AzureMLException
        ├── UserErrorException            bad input, unknown name, conflict
        │   ├── NotFoundError             what was asked for does not exist
        │   ├── ConflictError             the present state forbids the request
        │   ├── RunEnvironmentException   needs a run, and there is none
        │   └── ExperimentNameError
        ├── AuthenticationException       no or bad credentials
        │   └── PermissionDeniedError     known, but not allowed
        ├── ServiceException              the server failed or could not be reached
        │   ├── ServerUnreachableError
        │   ├── StorageFullError
        │   └── VersionMismatchError
        ├── ExperimentExecutionException
        ├── ActivityFailedException       the run ended Failed
        ├── SnapshotException
        ├── EnvironmentBuildError
        ├── ComputeTargetException
        ├── DatasetTimestampMissingError
        ├── IntegrityError                bytes differ from their digest
        ├── TrainingException
        ├── HyperDriveConfigException
        └── WebserviceException
            └── ModelNotFoundException    v1 asked one service for models and for web services

This module knows no HTTP. The server has a table from these classes to status codes; a refusal carries the name of its
class, and the client raises the class of that name.
"""

from typing import Optional


class RunyardError(Exception):
    """Something went wrong in Runyard."""

    def __init__(self, message: Optional[str] = None, *, hint: Optional[str] = None) -> None:
        text = message or (self.__class__.__doc__ or "").splitlines()[0]
        super().__init__(text if hint is None else text + " " + hint)
        self.message = text
        self.hint = hint


class AzureMLException(RunyardError):
    """The request could not be carried out."""


class UserErrorException(AzureMLException):
    """The request is not valid."""


class NotFoundError(UserErrorException):
    """What was asked for does not exist."""


class ConflictError(UserErrorException):
    """The present state does not allow this."""


class RunEnvironmentException(UserErrorException):
    """This call works only inside a submitted run."""


class ExperimentNameError(UserErrorException):
    """An experiment's name has 1 to 255 letters, digits, '_' or '-', and starts with a letter or digit."""


class AuthenticationException(AzureMLException):
    """The server did not accept the credentials."""


class PermissionDeniedError(AuthenticationException):
    """This principal may not do that."""


class ServiceException(AzureMLException):
    """The server failed to answer the request."""


class ServerUnreachableError(ServiceException):
    """The server cannot be reached."""


class StorageFullError(ServiceException):
    """There is no space left where the data must be written."""


class VersionMismatchError(ServiceException):
    """Client and server do not speak a common version."""


class ExperimentExecutionException(AzureMLException):
    """The run could not be carried out."""


class ActivityFailedException(AzureMLException):
    """The run failed."""


class SnapshotException(AzureMLException):
    """The source folder cannot be sent."""


class EnvironmentBuildError(AzureMLException):
    """The environment cannot be built."""


class ComputeTargetException(AzureMLException):
    """The compute target does not exist or refused the request."""


class DatasetTimestampMissingError(AzureMLException):
    """The dataset has no timestamp column."""


class IntegrityError(AzureMLException):
    """The bytes do not match their digest."""


class RunConfigurationException(AzureMLException):
    """The run's configuration is not valid."""


class TrainingException(AzureMLException):
    """The training configuration is not valid."""


class HyperDriveConfigException(AzureMLException):
    """The sweep's configuration is not valid."""


class WebserviceException(AzureMLException):
    """The web service refused the request."""


class ModelNotFoundException(WebserviceException):
    """The model does not exist."""
