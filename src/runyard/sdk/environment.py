"""Environment: packages, variables and image of a run, as v1 described them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

from runyard.errors import UserErrorException
from runyard.protocol import environments
from runyard.protocol.environments import DockerSpec, EnvironmentBody, EnvironmentSpec, PythonSpec
from runyard.sdk.conda_dependencies import CondaDependencies, read_file

#: v1's default images, by name; kept with a run, used by a docker builder.
DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi3.1.2-cuda10.1-cudnn7-ubuntu18.04"


class DockerSection:
    """``environment.docker``: accepted, kept and shown; this version builds with uv and no container."""

    def __init__(self, spec: Optional[DockerSpec] = None) -> None:
        known = spec or DockerSpec(base_image=DEFAULT_CPU_IMAGE)
        self.enabled = known.enabled
        self.base_image = known.base_image
        self.base_dockerfile = known.base_dockerfile
        self.arguments: List[str] = list(known.arguments)
        self.shm_size = known.shm_size
        self.gpu_support = known.gpu_support
        self.shared_volumes = True
        self.base_image_registry: Any = None

    def _spec(self) -> DockerSpec:
        return DockerSpec(
            enabled=bool(self.enabled),
            base_image=self.base_image,
            base_dockerfile=self.base_dockerfile,
            arguments=tuple(str(one) for one in self.arguments or ()),
            shm_size=self.shm_size,
            gpu_support=bool(self.gpu_support),
        )


class PythonSection:
    """``environment.python``."""

    def __init__(self, spec: Optional[PythonSpec] = None) -> None:
        known = spec or PythonSpec()
        self.user_managed_dependencies = known.user_managed
        self.interpreter_path = known.interpreter_path
        self.conda_dependencies = CondaDependencies(_underlying_structure=known.conda)
        self.as_of = known.as_of
        self.exact_only = known.exact_only
        self.conda_dependencies_file: Optional[str] = None

    def _spec(self) -> PythonSpec:
        conda = self.conda_dependencies._spec
        if self.conda_dependencies_file is not None:
            conda = read_file(self.conda_dependencies_file)
        return PythonSpec(
            user_managed=bool(self.user_managed_dependencies),
            interpreter_path=self.interpreter_path or "python",
            conda=conda,
            as_of=self.as_of,
            exact_only=self.exact_only,
        )


class Environment:
    """A named environment. Change it freely; what a run uses is what it is when the run is submitted."""

    def __init__(self, name: Optional[str] = None, **_: Any) -> None:
        self.name = name
        self.version: Optional[str] = None
        #: What the server has under that version; None where it was not fetched.
        self._stored: Optional[EnvironmentSpec] = None
        self.python = PythonSection()
        self.docker = DockerSection()
        self.environment_variables: Dict[str, str] = {}
        self.inferencing_stack_version: Optional[str] = None
        self.spark: Any = None
        self.r: Any = None

    @classmethod
    def _of(cls, spec: EnvironmentSpec) -> "Environment":
        found = cls(spec.name)
        found.version = spec.version or None
        found.python = PythonSection(spec.python)
        found.docker = DockerSection(spec.docker)
        found.environment_variables = dict(spec.variables)
        return found

    @classmethod
    def _of_stored(cls, stored: environments.Environment) -> "Environment":
        found = cls._of(stored.spec)
        found.version = stored.version or None
        found._stored = found._spec()
        return found

    @staticmethod
    def from_conda_specification(name: str, file_path: str) -> "Environment":
        """An environment from a conda YAML file."""
        found = Environment(name)
        found.python.conda_dependencies = CondaDependencies(_underlying_structure=read_file(file_path))
        return found

    @staticmethod
    def from_pip_requirements(name: str, file_path: str, pip_version: Optional[str] = None) -> "Environment":
        """An environment from a requirements file."""
        from runyard.environments.spec import read_pip_requirements

        try:
            text = Path(file_path).read_text("utf-8-sig")
        except OSError as error:
            raise UserErrorException(f"The file {file_path!r} cannot be read: {error.strerror}.") from None
        found = Environment(name)
        spec = read_pip_requirements(text, f"The requirements file {file_path!r}")
        found.python.conda_dependencies = CondaDependencies(_underlying_structure=spec)
        return found

    @staticmethod
    def get(workspace: Any, name: str, version: Optional[str] = None, label: Optional[str] = None) -> "Environment":
        """A registered or curated environment (default: its latest version)."""
        return Environment._of_stored(workspace._call("get_environment", query={"version": version}, name=name))

    @staticmethod
    def list(workspace: Any) -> "Dict[str, Environment]":
        """Registered and curated environments by name."""
        return {one.name: Environment._of_stored(one) for one in workspace._call("list_environments")}

    def register(self, workspace: Any) -> "Environment":
        """Register it as its name's next version; the same content again is the version that exists."""
        if not self.name:
            raise UserErrorException("An environment needs a name to be registered.")
        return Environment._of_stored(workspace._call("register_environment", EnvironmentBody(self._spec())))

    def clone(self, new_name: str) -> "Environment":
        """A copy under another name, to be changed."""
        found = Environment._of(self._spec())
        found.name, found.version = new_name, None
        return found

    def save_to_directory(self, path: str, overwrite: bool = False) -> None:
        """Write the definition into a folder: conda_dependencies.yml and azureml_environment.json."""
        from runyard.environments.folder import save_to_directory

        save_to_directory(self._spec(), path, overwrite)

    @staticmethod
    def load_from_directory(path: str) -> "Environment":
        """The environment that ``save_to_directory`` wrote."""
        from runyard.environments.folder import load_from_directory

        return Environment._of(load_from_directory(path))

    def _spec(self) -> EnvironmentSpec:
        spec = EnvironmentSpec(
            name=self.name or "",
            version=self.version or "",
            python=self.python._spec(),
            docker=self.docker._spec(),
            variables={str(key): str(value) for key, value in self.environment_variables.items()},
        )
        if self._stored is not None and spec.version == self._stored.version and spec != self._stored:
            # Changed since it was fetched: it is that version no more, and registered it becomes the next one.
            return replace(spec, version="")
        return spec

    def __repr__(self) -> str:
        return f"Environment(name={self.name!r}, version={self.version!r})"
