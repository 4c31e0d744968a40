"""RunConfiguration: where and how a script runs, the older of v1's two ways to say it."""

from typing import Any, Dict, Optional

from runyard.sdk.environment import Environment


class RunConfiguration:
    """Target, environment and arguments; pass it to a ScriptRunConfig as ``run_config``."""

    def __init__(
        self,
        script: Optional[str] = None,
        arguments: Any = None,
        framework: Optional[str] = None,
        communicator: Optional[str] = None,
        conda_dependencies: Any = None,
        _history_enabled: Any = None,
        _path: Any = None,
        _name: Any = None,
        command: Any = None,
        **_: Any,
    ) -> None:
        self.script = script
        #: A list, or a text, as ScriptRunConfig takes them.
        self.arguments: Any = arguments if arguments is not None else []
        self.command = command
        self.framework = framework or "Python"
        self.communicator = communicator or "None"
        self.target: Any = "local"
        self.environment = Environment()
        #: A DockerConfiguration: how the container of the environment's image is started.
        self.docker: Any = None
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies
        self.environment_variables: Dict[str, str] = {}
        self.node_count = 1
        self.max_run_duration_seconds: Optional[int] = None
        self.data_references: Dict[str, Any] = {}
        self.data: Dict[str, Any] = {}
        self.output_data: Dict[str, Any] = {}
        self.auto_prepare_environment = True
