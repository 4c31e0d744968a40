"""ScriptRunConfig: a source folder, a script or command, and where it runs."""

import os
import shlex
from typing import Any, List, Optional

from runyard.errors import UserErrorException
from runyard.sdk.data_path import resume_words
from runyard.sdk.environment import Environment
from runyard.sdk.run_configuration import RunConfiguration

#: v1's limit where none is given: thirty days, in seconds.
MAX_DURATION_SECONDS_DEFAULT = 2_592_000


class ScriptRunConfig:
    """What ``Experiment.submit`` takes."""

    MAX_DURATION_SECONDS_DEFAULT = MAX_DURATION_SECONDS_DEFAULT

    def __init__(
        self,
        source_directory: Any = None,
        script: Any = None,
        arguments: Any = None,
        run_config: Optional[RunConfiguration] = None,
        _telemetry_values: Any = None,
        compute_target: Any = None,
        environment: Optional[Environment] = None,
        distributed_job_config: Any = None,
        resume_from: Any = None,
        max_run_duration_seconds: Optional[int] = MAX_DURATION_SECONDS_DEFAULT,
        command: Any = None,
        docker_runtime_config: Any = None,
        max_infrastructure_retries: Optional[int] = None,
    ) -> None:
        if script is not None and command is not None:
            raise UserErrorException("Give a script or a command, not both.")
        if environment is not None and not isinstance(environment, Environment):
            raise UserErrorException(
                f"environment is an Environment, not {environment!r}; Environment.get(workspace, name) finds one."
            )
        if compute_target is not None and not isinstance(getattr(compute_target, "name", compute_target), str):
            raise UserErrorException(f"compute_target is a compute target or its name, not {compute_target!r}.")
        if run_config is not None and (compute_target is not None or environment is not None):
            raise UserErrorException(
                "compute_target and environment stand in run_config already; give one or the other."
            )
        self.source_directory = os.fspath(source_directory or ".")
        self.run_config = run_config or RunConfiguration()
        asked = script if script is not None else self.run_config.script
        self.script: Optional[str] = None if asked is None else os.fspath(asked)
        self.command = command if command is not None else self.run_config.command
        self.arguments = _words(arguments if arguments is not None else self.run_config.arguments)
        self.arguments += resume_words(resume_from)
        if run_config is None:
            self.run_config.target = compute_target if compute_target is not None else "local"
            self.run_config.environment = environment if environment is not None else Environment()
            self.run_config.max_run_duration_seconds = max_run_duration_seconds
        elif max_run_duration_seconds != MAX_DURATION_SECONDS_DEFAULT:
            self.run_config.max_run_duration_seconds = max_run_duration_seconds
        if distributed_job_config is not None:
            self.run_config._distribute(distributed_job_config)
        if max_infrastructure_retries is not None:
            self.run_config.max_infrastructure_retries = max_infrastructure_retries
        if docker_runtime_config is not None:
            self.run_config.docker = docker_runtime_config
        if not self.script and not self.command:
            raise UserErrorException("A ScriptRunConfig needs a script or a command.")

    @property
    def max_infrastructure_retries(self) -> Optional[int]:
        """How often the run may start again after its machines are lost; None: as the target's priority says."""
        return self.run_config.max_infrastructure_retries

    @max_infrastructure_retries.setter
    def max_infrastructure_retries(self, count: Optional[int]) -> None:
        self.run_config.max_infrastructure_retries = count


def _words(arguments: Any) -> List[Any]:
    """The arguments one by one; a text is split as a shell would."""
    if isinstance(arguments, str):
        try:
            return list(shlex.split(arguments))
        except ValueError as error:
            raise UserErrorException(f"The arguments {arguments!r} cannot be split: {error}.") from None
    if not isinstance(arguments, (list, tuple)):
        raise UserErrorException(
            f"arguments is a list such as ['--rate', 0.1], not {type(arguments).__name__} {arguments!r}."
        )
    return list(arguments)
