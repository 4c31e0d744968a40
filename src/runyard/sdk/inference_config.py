"""InferenceConfig: the script that answers, its folder and its environment."""

import os
from typing import TYPE_CHECKING, Any, Optional

from runyard.client.home import home_folder
from runyard.client.transfer import send_blobs, send_bytes
from runyard.errors import UserErrorException, WebserviceException
from runyard.protocol.services import EntryScript
from runyard.sdk.notices import say_kept_of
from runyard.sdk.session import current_server

if TYPE_CHECKING:
    from runyard.sdk.environment import Environment
    from runyard.sdk.workspace import Workspace

#: What v1 called the language of a script.
_RUNTIMES = ("python", "python-slim", "spark-py")
#: Why what v1 said of images is not done.
NO_IMAGE = "a service runs in its environment's packages, and in no image; Model.package() writes a Dockerfile"


class InferenceConfig:
    """``entry_script`` has init() and run(data). Either an ``environment``, or v1's older ``runtime`` and files."""

    def __init__(
        self,
        entry_script: str,
        runtime: Optional[str] = None,
        conda_file: Optional[str] = None,
        extra_docker_file_steps: Optional[str] = None,
        source_directory: Optional[str] = None,
        enable_gpu: Optional[bool] = None,
        description: Optional[str] = None,
        base_image: Optional[str] = None,
        base_image_registry: Any = None,
        cuda_version: Optional[str] = None,
        environment: "Optional[Environment]" = None,
    ) -> None:
        self.entry_script = entry_script
        self.runtime = runtime
        self.conda_file = conda_file
        self.extra_docker_file_steps = extra_docker_file_steps
        self.source_directory = source_directory
        self.enable_gpu = enable_gpu
        self.description = description
        self.base_image = base_image
        self.base_image_registry = base_image_registry
        self.cuda_version = cuda_version
        self.environment = environment
        self.validate_configuration()
        given = {"base_image": base_image, "extra_docker_file_steps": extra_docker_file_steps}
        say_kept_of(given, NO_IMAGE)

    def validate_configuration(self) -> None:
        """WebserviceException for what v1 refused: no script, two environments, a runtime nobody knows."""
        if not self.entry_script:
            raise WebserviceException("entry_script is the path of a Python file with init() and run(data).")
        if self.environment is not None and (self.runtime or self.conda_file or self.extra_docker_file_steps):
            raise WebserviceException("Give environment, or runtime with conda_file, and not both.")
        if self.runtime is not None and self.runtime.lower() not in _RUNTIMES:
            raise WebserviceException(f"runtime is one of {', '.join(_RUNTIMES)}, not {self.runtime!r}.")
        folder = self.source_directory or os.path.dirname(os.path.abspath(self.entry_script))
        if not os.path.isfile(os.path.join(folder, self._script_name())):
            raise WebserviceException(f"The entry script {self.entry_script!r} is no file in {folder!r}.")

    def validation_script_content(self) -> None:
        """WebserviceException where the script is no Python, or has no run(data)."""
        import ast

        path = os.path.join(self._folder(), self._script_name())
        try:
            with open(path, encoding="utf-8") as file:
                tree = ast.parse(file.read(), path)
        except OSError as error:
            raise WebserviceException(f"The entry script {path!r} cannot be read: {error.strerror}.") from None
        except (SyntaxError, UnicodeDecodeError) as error:
            raise WebserviceException(f"The entry script {self.entry_script!r} is no Python: {error}.") from None
        names = {one.name for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))}
        names |= {
            alias.asname or alias.name
            for one in ast.walk(tree)
            if isinstance(one, ast.ImportFrom)
            for alias in one.names
        }
        names |= {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        # What "import *" brings is known once it is loaded.
        if not names & {"run", "*"}:
            raise WebserviceException(f"The entry script {self.entry_script!r} has no function run(data).")

    def build_environment(self) -> "Environment":
        """The environment, also where it was given by v1's older parameters."""
        from runyard.sdk.environment import Environment

        if self.environment is not None:
            return self.environment
        if self.conda_file is None:
            raise WebserviceException("An InferenceConfig needs an environment (or, as v1 once had it, a conda_file).")
        path = self.conda_file
        if self.source_directory is not None and not os.path.isabs(path):
            path = os.path.join(self.source_directory, path)
        return Environment.from_conda_specification("inference", path)

    def send(self, workspace: "Workspace") -> EntryScript:
        """Send the folder, as far as the server does not have it; returns what a service is told."""
        from runyard.files.snapshots import encode_snapshot, take_snapshot

        self.validation_script_content()
        spec = self.build_environment()._spec()
        snapshot = take_snapshot(self._folder(), str(home_folder() / "cache" / "snapshots"))
        name = self._script_name()
        if not any(entry.path == name for entry in snapshot.tree.entries):
            raise UserErrorException(f"The entry script {name!r} is left out by the folder's ignore rules.")
        send_blobs(current_server(), workspace.name, snapshot.sources)
        send_bytes(current_server(), workspace.name, [encode_snapshot(snapshot)])
        return EntryScript(name, snapshot.digest, spec)

    def _folder(self) -> str:
        return self.source_directory or os.path.dirname(os.path.abspath(self.entry_script))

    def _script_name(self) -> str:
        """Relative to the folder that is sent."""
        if self.source_directory is None:
            return os.path.basename(self.entry_script)
        if os.path.isabs(self.entry_script):
            return os.path.relpath(self.entry_script, os.path.abspath(self.source_directory)).replace(os.sep, "/")
        return os.path.normpath(self.entry_script).replace(os.sep, "/")


def of_image(image: Any) -> InferenceConfig:
    """What an image of v1's is deployed as."""
    if not hasattr(image, "image_config"):
        raise WebserviceException(f"image is what ContainerImage.create(...) gives, not {image!r}.")
    return of_image_config(image.image_config)


def of_image_config(config: Any) -> InferenceConfig:
    """What an image's configuration of v1's comes down to: a script with its environment."""
    if not hasattr(config, "inference_config"):
        raise WebserviceException(
            f"image_config is what ContainerImage.image_configuration(...) gives, not {config!r}."
        )
    found: InferenceConfig = config.inference_config()
    return found
