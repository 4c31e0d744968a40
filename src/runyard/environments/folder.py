"""An environment as v1's two files in a folder: azureml_environment.json and conda_dependencies.yml."""

import json
import os
from dataclasses import replace
from typing import Any, Dict, List, Optional

from runyard.environments.spec import MAX_FILE_BYTES, read_conda_yaml, write_conda_yaml
from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol.environments import CondaSpec, DockerSpec, EnvironmentSpec, PythonSpec, RegistrySpec

DEFINITION_FILE = "azureml_environment.json"
CONDA_FILE = "conda_dependencies.yml"
#: The sections that mean nothing here, as v1 writes them where nothing was said.
NOTHING_SAID: Dict[str, Any] = {
    "spark": {"repositories": [], "packages": [], "precachePackages": True},
    "r": None,
}


def save_to_directory(spec: EnvironmentSpec, path: str, overwrite: bool = False) -> None:
    """Write the two files into the folder ``path``, made if needed; UserErrorException if it is there already."""
    if os.path.exists(path) and not overwrite:
        raise UserErrorException(f"'{path}' exists already; pass overwrite=True to write into it.")
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, DEFINITION_FILE), "w", encoding="utf-8") as stream:
        json.dump(definition(spec), stream, indent=4, sort_keys=True)
        stream.write("\n")
    with open(os.path.join(path, CONDA_FILE), "w", encoding="utf-8") as stream:
        stream.write(write_conda_yaml(spec.python.conda))


def load_from_directory(path: str) -> EnvironmentSpec:
    """The environment that save_to_directory (ours or Azure's) wrote; an edited conda file wins over the JSON file."""
    file = os.path.join(path, DEFINITION_FILE)
    if not os.path.isfile(file):
        raise NotFoundError(f"'{path}' holds no {DEFINITION_FILE}.")
    try:
        data = json.loads(_text(file))
        spec = read_definition(data)
    except (ValueError, RecursionError) as error:
        raise UserErrorException(f"'{file}' is not a definition of an environment: {error}.") from None
    conda_file = os.path.join(path, CONDA_FILE)
    if not os.path.isfile(conda_file):
        return spec
    return replace(spec, python=replace(spec.python, conda=read_conda_yaml(_text(conda_file), conda_file)))


def definition(spec: EnvironmentSpec) -> Dict[str, Any]:
    """The environment in the shape of v1's JSON, as it stands in its files and in get_details()."""
    conda = spec.python.conda
    dependencies: List[Any] = list(conda.packages)
    if conda.pip:
        dependencies.append({"pip": list(conda.pip)})
    return {
        "name": spec.name,
        "version": spec.version or None,
        "environmentVariables": dict(spec.variables),
        "inferencingStackVersion": None,
        "python": {
            "userManagedDependencies": spec.python.user_managed,
            "interpreterPath": spec.python.interpreter_path,
            "condaDependenciesFile": None,
            "baseCondaEnvironment": None,
            "condaDependencies": {
                "name": conda.name,
                "channels": list(conda.channels),
                "dependencies": dependencies,
            },
        },
        "docker": {
            "enabled": spec.docker.enabled,
            "baseImage": spec.docker.base_image,
            "baseDockerfile": spec.docker.base_dockerfile,
            "arguments": list(spec.docker.arguments),
            "shmSize": spec.docker.shm_size,
            "sharedVolumes": not spec.docker.without_shared_volumes,
            "gpuSupport": spec.docker.gpu_support,
            "baseImageRegistry": _registry(spec.docker.registry),
            "platform": {"os": "Linux", "architecture": "amd64"},
            **_build_context(spec.docker),
        },
        **NOTHING_SAID,
        **{name: json.loads(text) for name, text in spec.kept_sections.items()},
    }


def _registry(registry: Optional[RegistrySpec]) -> Dict[str, Any]:
    """As v1 writes it; without the password, which no file should have."""
    known = registry or RegistrySpec()
    names = {"address": known.address or None, "username": known.username or None}
    return {**names, "password": None, "registryIdentity": None}


def _read_registry(data: Dict[str, Any]) -> Optional[RegistrySpec]:
    if not data.get("address"):
        return None
    return RegistrySpec(*(str(data.get(name) or "") for name in ("address", "username", "password")))


def _build_context(docker: DockerSpec) -> Dict[str, Any]:
    if docker.build_context is None:
        return {}
    place = {"locationType": "stored", "location": docker.build_context, "dockerfilePath": docker.dockerfile_path}
    return {"buildContext": place}


def read_definition(data: Any) -> EnvironmentSpec:
    """The environment in v1's JSON shape; what it lacks keeps its default, what we do not know is passed over."""
    if not isinstance(data, dict):
        raise UserErrorException("A definition of an environment is a JSON object.")
    python = _section(data, "python")
    docker = _section(data, "docker")
    return EnvironmentSpec(
        name=str(data.get("name") or ""),
        version=str(data.get("version") or ""),
        python=PythonSpec(
            user_managed=bool(python.get("userManagedDependencies")),
            interpreter_path=str(python.get("interpreterPath") or "python"),
            conda=_conda(_section(python, "condaDependencies")),
        ),
        docker=DockerSpec(
            enabled=bool(docker.get("enabled")),
            base_image=docker.get("baseImage"),
            base_dockerfile=docker.get("baseDockerfile"),
            arguments=tuple(str(one) for one in docker.get("arguments") or ()),
            shm_size=docker.get("shmSize"),
            gpu_support=bool(docker.get("gpuSupport")),
            without_shared_volumes=docker.get("sharedVolumes") is False,
            registry=_read_registry(_section(docker, "baseImageRegistry")),
            build_context=_section(docker, "buildContext").get("location"),
            dockerfile_path=_section(docker, "buildContext").get("dockerfilePath"),
        ),
        variables={str(key): str(value) for key, value in _section(data, "environmentVariables").items()},
        kept_sections={
            name: json.dumps(data[name], sort_keys=True)
            for name, nothing in NOTHING_SAID.items()
            if data.get(name) not in (None, nothing)
        },
    )


def _section(data: Dict[str, Any], key: str) -> Dict[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise UserErrorException(f"'{key}' in the definition of an environment must be a JSON object.")
    return value


def _conda(data: Dict[str, Any]) -> CondaSpec:
    # JSON is YAML, so one reader judges both.
    return read_conda_yaml(json.dumps(data), "'condaDependencies' in the definition") if data else CondaSpec()


def _text(path: str) -> str:
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise UserErrorException(f"'{path}' is larger than {MAX_FILE_BYTES} bytes.")
    with open(path, encoding="utf-8") as stream:
        return stream.read()
