"""Environment: packages, variables and image of a run, as v1 described them."""

import json
import os
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

from runyard.errors import UserErrorException
from runyard.files.text import read_text
from runyard.protocol import environments
from runyard.protocol.environments import EnvironmentBody, EnvironmentSpec
from runyard.sdk.conda_dependencies import CondaDependencies, read_file
from runyard.sdk.container_registry import DockerBuildContext, send_file
from runyard.sdk.environment_sections import DockerSection, PythonSection, RSection, SparkSection, kept_sections

if TYPE_CHECKING:
    from runyard.sdk.environment_build import EnvironmentBuildDetails


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
        self.spark = SparkSection()
        self.r: Optional[RSection] = None

    @classmethod
    def _of(cls, spec: EnvironmentSpec) -> "Environment":
        found = cls(spec.name)
        found.version = spec.version or None
        found.python = PythonSection(spec.python)
        found.docker = DockerSection(spec.docker)
        found.environment_variables = dict(spec.variables)
        kept = {name: json.loads(text) for name, text in spec.kept_sections.items()}
        found.spark = SparkSection(**kept.get("spark", {}))
        found.r = RSection(**kept["r"]) if "r" in kept else None
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

        found = Environment(name)
        spec = read_pip_requirements(_read(file_path), f"The requirements file {file_path!r}")
        found.python.conda_dependencies = CondaDependencies(_underlying_structure=spec)
        return found

    @staticmethod
    def from_existing_conda_environment(name: str, conda_environment_name: str) -> "Environment":
        """An environment with the packages of a conda environment of this machine.

        UserErrorException where there is no conda, or it has none of that name.
        """
        from runyard.sdk.conda_export import export

        found = Environment(name)
        found.python.conda_dependencies = CondaDependencies(_underlying_structure=export(conda_environment_name))
        return found

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: Any = None,
        conda_specification: Optional[str] = None,
        pip_requirements: Optional[str] = None,
    ) -> "Environment":
        """An environment on a base image, with the packages of a conda or requirements file; else with its own."""
        found = Environment._with_packages(name, conda_specification, pip_requirements)
        found.docker.base_image = image
        if container_registry is not None:
            found.docker.base_image_registry = container_registry
        return found

    @staticmethod
    def from_dockerfile(
        name: str,
        dockerfile: str,
        conda_specification: Optional[str] = None,
        pip_requirements: Optional[str] = None,
    ) -> "Environment":
        """An environment on the image of a Dockerfile: its path, or its text."""
        found = Environment._with_packages(name, conda_specification, pip_requirements)
        is_text = "\n" in dockerfile or dockerfile.lstrip().upper().startswith("FROM ")
        found.docker.base_image = None
        found.docker.base_dockerfile = dockerfile if is_text else _read(dockerfile)
        return found

    @staticmethod
    def _with_packages(name: str, conda_file: Optional[str], pip_file: Optional[str]) -> "Environment":
        if conda_file is not None and pip_file is not None:
            raise UserErrorException("Give conda_specification or pip_requirements, not both.")
        if conda_file is not None:
            return Environment.from_conda_specification(name, conda_file)
        if pip_file is not None:
            return Environment.from_pip_requirements(name, pip_file)
        found = Environment(name)
        # As in v1: without a list of packages, the image holds them.
        found.python.user_managed_dependencies = True
        return found

    @staticmethod
    def from_docker_build_context(name: str, docker_build_context: Any) -> "Environment":
        """An environment on the image that a folder with a Dockerfile makes; it holds its packages itself."""
        if not isinstance(docker_build_context, DockerBuildContext):
            raise UserErrorException(
                "docker_build_context is what DockerBuildContext.from_local_directory(workspace, path) gives, "
                f"not {docker_build_context!r}."
            )
        found = Environment._with_packages(name, None, None)
        found.docker.base_image, found.docker.build_context = None, docker_build_context
        return found

    @staticmethod
    def add_private_pip_wheel(workspace: Any, file_path: str, exist_ok: bool = False) -> str:
        """Have the workspace keep a wheel; the name returned goes into ``CondaDependencies.add_pip_package``.

        ConflictError if it keeps one of that name already, unless ``exist_ok``; environments that name the older one
        keep that.
        """
        from runyard.environments.stored_files import check_wheel_name

        check_wheel_name(os.path.basename(file_path))
        if not zipfile.is_zipfile(file_path):
            raise UserErrorException(f"The file {file_path!r} is no wheel: there is none, or it is no zip archive.")
        return send_file(workspace, file_path, exist_ok)

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

    def build(self, workspace: Any, image_build_compute: Any = None) -> "EnvironmentBuildDetails":
        """Have it built on the server's machine now, ahead of the run that needs it."""
        from runyard.sdk.environment_build import begin

        return begin(workspace, self._spec())

    def build_local(self, workspace: Any = None, platform: Any = None, **_: Any) -> "EnvironmentBuildDetails":
        """Build it on this machine, into the home folder; returns once that is done."""
        from runyard.sdk.environment_build import build_here

        return build_here(self._spec())

    def get_image_details(self, workspace: Any) -> "Dict[str, Any]":
        """What was built: its key, Python, packages, and what was changed against the environment and why.

        UserErrorException while it is not built.
        """
        from runyard.sdk.environment_build import image_details

        return image_details(workspace, self._spec())

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
            variables=variable_texts(self.environment_variables),
            kept_sections=kept_sections(self.spark, self.r),
        )
        if self._stored is not None and spec.version == self._stored.version and spec != self._stored:
            # Changed since it was fetched: it is that version no more, and registered it becomes the next one.
            return replace(spec, version="")
        return spec

    def __repr__(self) -> str:
        return f"Environment(name={self.name!r}, version={self.version!r})"


def variable_texts(given: Mapping[Any, Any]) -> Dict[str, str]:
    """The variables of a process; UserErrorException for one without a value, which a text would not be."""
    for name, value in given.items():
        if value is None:
            raise UserErrorException(f"The environment variable {str(name)!r} has no value; '' is an empty one.")
    return {str(name): str(value) for name, value in given.items()}


def _read(path: str) -> str:
    return read_text(path, f"The file {path!r}")
