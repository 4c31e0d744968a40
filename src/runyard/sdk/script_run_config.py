"""ScriptRunConfig: a source folder, a script or command, and where it runs."""

from typing import Any, Optional

from runyard.errors import UserErrorException
from runyard.sdk.environment import Environment
from runyard.sdk.run_configuration import RunConfiguration

#: v1's limit where none is given: thirty days, in seconds.
MAX_DURATION_SECONDS_DEFAULT = 2_592_000


class ScriptRunConfig:
    """What ``Experiment.submit`` takes."""

    MAX_DURATION_SECONDS_DEFAULT = MAX_DURATION_SECONDS_DEFAULT

    def __init__(
        self,
        source_directory: Optional[str] = None,
        script: Optional[str] = None,
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
        **_: Any,
    ) -> None:
        if script is not None and command is not None:
            raise UserErrorException("Give a script or a command, not both.")
        if run_config is not None and (compute_target is not None or environment is not None):
            raise UserErrorException(
                "compute_target and environment stand in run_config already; give one or the other."
            )
        if distributed_job_config is not None:
            raise UserErrorException("Distributed jobs come in a later release; docs/v1_coverage.md lists what works.")
        if resume_from is not None:
            raise UserErrorException("resume_from comes in a later release; docs/v1_coverage.md lists what works.")
        self.source_directory = source_directory or "."
        self.run_config = run_config or RunConfiguration()
        self.script = script if script is not None else self.run_config.script
        self.command = command if command is not None else self.run_config.command
        self.arguments = list(arguments if arguments is not None else self.run_config.arguments)
        if run_config is None:
            self.run_config.target = compute_target if compute_target is not None else "local"
            self.run_config.environment = environment if environment is not None else Environment()
            self.run_config.max_run_duration_seconds = max_run_duration_seconds
        if not self.script and not self.command:
            raise UserErrorException("A ScriptRunConfig needs a script or a command.")
