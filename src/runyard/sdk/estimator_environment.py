"""An estimator's environment, from its packages, files, image and framework."""

import os
from dataclasses import replace
from typing import Any, List, Optional, Tuple

from runyard.errors import TrainingException, UserErrorException
from runyard.protocol.environments import CondaSpec
from runyard.protocol.record import record
from runyard.sdk.conda_dependencies import CondaDependencies, read_file
from runyard.sdk.container_registry import ContainerRegistry
from runyard.sdk.environment import Environment
from runyard.sdk.environment_sections import DEFAULT_GPU_IMAGE
from runyard.sdk.estimator_version import FrameworkVersion
from runyard.sdk.notices import say_deprecated, say_once


@record
class EnvironmentWish:
    """An estimator's parameters of its environment, by v1's names, as they were given."""

    #: What the files' paths are relative to.
    source_directory: str = "."
    conda_packages: Any = None
    pip_packages: Any = None
    conda_dependencies_file_path: Optional[str] = None
    pip_requirements_file_path: Optional[str] = None
    conda_dependencies_file: Optional[str] = None
    pip_requirements_file: Optional[str] = None
    custom_docker_base_image: Optional[str] = None
    custom_docker_image: Optional[str] = None
    #: A ContainerRegistry.
    image_registry_details: Any = None
    use_gpu: bool = False
    use_docker: bool = True
    user_managed: bool = False
    shm_size: Optional[str] = None
    #: An Environment.
    environment_definition: Any = None

    @property
    def says_all(self) -> bool:
        """Is it said what the environment holds, so that no framework goes into it?"""
        conda_file = self.conda_dependencies_file or self.conda_dependencies_file_path
        return self.environment_definition is not None or self.user_managed or conda_file is not None


#: Parameters with two names, the older one first.
_TWO_NAMES = (
    ("conda_dependencies_file_path", "conda_dependencies_file"),
    ("pip_requirements_file_path", "pip_requirements_file"),
    ("custom_docker_base_image", "custom_docker_image"),
)
_PACKAGES = ("conda_packages", "pip_packages", "conda_dependencies_file", "pip_requirements_file")
_IMAGE = ("custom_docker_image", "image_registry_details", "use_gpu", "user_managed", "shm_size")


def environment_of(wish: EnvironmentWish, framework: Optional[FrameworkVersion], with_mpi: bool) -> Environment:
    """The environment that the parameters describe; TrainingException where they contradict each other."""
    wish = _with_newer_names(wish)
    _check(wish)
    if isinstance(wish.environment_definition, Environment):
        return wish.environment_definition
    found = Environment()
    _set_image(found, wish, framework)
    if wish.user_managed:
        found.python.user_managed_dependencies = True
        return found
    dependencies = CondaDependencies(_underlying_structure=_files(wish))
    if framework is not None:
        _add_framework(dependencies, framework, _framework_lines(wish, framework, with_mpi))
    for line in _lines("conda_packages", wish.conda_packages):
        dependencies.add_conda_package(line)
    for line in _lines("pip_packages", wish.pip_packages):
        dependencies.add_pip_package(line)
    found.python.conda_dependencies = dependencies
    return found


def _with_newer_names(wish: EnvironmentWish) -> EnvironmentWish:
    for older, newer in _TWO_NAMES:
        value = getattr(wish, older)
        if value is None:
            continue
        if getattr(wish, newer) is not None:
            raise TrainingException(f"{older} and {newer} are two names of one parameter; give {newer}.")
        say_deprecated(older, newer)
        wish = replace(wish, **{older: None, newer: value})
    return wish


def _check(wish: EnvironmentWish) -> None:
    packages = [name for name in _PACKAGES if getattr(wish, name)]
    if wish.environment_definition is not None:
        _check_definition(wish, packages)
    if wish.conda_dependencies_file is not None and (wish.conda_packages or wish.pip_packages):
        raise TrainingException(
            "conda_dependencies_file lists all packages; write conda_packages and pip_packages into it."
        )
    if wish.image_registry_details is not None and not isinstance(wish.image_registry_details, ContainerRegistry):
        raise TrainingException(
            "image_registry_details is a ContainerRegistry of azureml.core.container_registry, "
            f"not {type(wish.image_registry_details).__name__}."
        )
    if wish.user_managed and packages:
        raise UserErrorException(
            f"user_managed=True installs nothing; leave {', '.join(packages)} out, or user_managed."
        )
    if not wish.use_docker:
        if wish.custom_docker_image is not None:
            raise TrainingException(
                f"use_docker=False contradicts the image {wish.custom_docker_image!r}; leave one of them out."
            )
        say_deprecated("use_docker", "environment_definition")


def _check_definition(wish: EnvironmentWish, packages: List[str]) -> None:
    told = packages + [name for name in _IMAGE if getattr(wish, name)] + ([] if wish.use_docker else ["use_docker"])
    if told:
        raise TrainingException(
            f"environment_definition says all of the environment; leave {', '.join(told)} out, "
            "or set it in the definition."
        )
    if not isinstance(wish.environment_definition, Environment):
        raise TrainingException(f"environment_definition is an Environment, not {wish.environment_definition!r}.")


def _set_image(found: Environment, wish: EnvironmentWish, framework: Optional[FrameworkVersion]) -> None:
    docker = found.docker
    docker.enabled, docker.gpu_support, docker.shm_size = bool(wish.use_docker), bool(wish.use_gpu), wish.shm_size
    if wish.use_gpu:
        docker.base_image = (framework.gpu_image if framework is not None else "") or DEFAULT_GPU_IMAGE
    if wish.custom_docker_image is not None:
        docker.base_image = wish.custom_docker_image
    if wish.image_registry_details is not None:
        docker.base_image_registry = wish.image_registry_details


def _add_framework(dependencies: CondaDependencies, framework: FrameworkVersion, lines: Tuple[str, ...]) -> None:
    if framework.python:
        dependencies.set_python_version(framework.python)
    for line in lines:
        dependencies.add_pip_package(line)


def _framework_lines(wish: EnvironmentWish, framework: FrameworkVersion, with_mpi: bool) -> Tuple[str, ...]:
    lines = framework.packages
    if wish.use_gpu and framework.gpu:
        if not framework.gpu_needs or wish.custom_docker_image is not None:
            lines = framework.gpu
        else:
            say_once(
                f"{framework.framework} {framework.version} for GPUs starts only where {framework.gpu_needs} is "
                "installed; its build for processors is taken, unless custom_docker_image names an image that has it."
            )
    return lines + (framework.mpi if with_mpi else ())


def _files(wish: EnvironmentWish) -> CondaSpec:
    """What the conda file and the requirements file list."""
    spec = CondaSpec()
    if wish.conda_dependencies_file is not None:
        spec = read_file(os.path.join(wish.source_directory, wish.conda_dependencies_file))
    if wish.pip_requirements_file is None:
        return spec
    path = os.path.join(wish.source_directory, wish.pip_requirements_file)
    listed = Environment.from_pip_requirements("", path).python.conda_dependencies._spec
    return CondaSpec(spec.name, spec.channels, spec.packages, spec.pip + listed.pip)


def _lines(name: str, given: Any) -> Tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise TrainingException(f"{name} is a list of packages such as ['numpy'], not {given!r}.")
    return tuple(given)
