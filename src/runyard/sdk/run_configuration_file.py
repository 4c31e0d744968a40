"""A RunConfiguration as a .runconfig file: YAML in v1's keys, as the SDK wrote them from its first version on."""

import os
import re
from typing import Any, Dict, List, Optional, Tuple

from runyard.errors import RunConfigurationException, UserErrorException
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.environment import Environment
from runyard.sdk.notices import say_once
from runyard.sdk.run_configuration import RunConfiguration
from runyard.sdk.run_sections import DataConfiguration, DataReferenceConfiguration

#: Folders of a project that hold its configurations, in the order in which they are searched.
_FOLDERS = (".azureml", "aml_config", "")
_SUFFIX = ".runconfig"
_PACKAGES_FILE = "environment.yml"

#: v1's keys in the file whose values are taken as they are, and the attributes that they are.
_PLAIN = {
    "script": "script",
    "arguments": "arguments",
    "target": "target",
    "framework": "framework",
    "communicator": "communicator",
    "maxRunDurationSeconds": "max_run_duration_seconds",
    "nodeCount": "node_count",
    "priority": "priority",
    "maxInfrastructureRetries": "max_infrastructure_retries",
    "environmentVariables": "environment_variables",
    "sourceDirectoryDataStore": "source_directory_data_store",
    "datacaches": "datacaches",
    "applicationEndpoints": "services",
    "credentialPassthrough": "credential_passthrough",
    "command": "command",
}
#: Sections whose keys are their attributes' names in v1's other spelling.
_SECTIONS = ("history", "spark", "hdi", "tensorflow", "mpi", "pytorch", "paralleltask", "amlcompute",
             "kubernetescompute")  # fmt: skip
#: What else is read, or was v1's own and is nobody's wish.
_OTHERS = ("environment", "docker", "dataReferences", "data", "outputData", "autoPrepareEnvironment", "jobName")
_WHOLE = re.compile(r"^(0|-?[1-9]\d{0,17})$")


def save(config: RunConfiguration, path: Optional[str], name: Optional[str], separate_packages: bool) -> str:
    """Write the file; returns its path."""
    import yaml

    target = _place(path, name)
    data = _written(config)
    if separate_packages:
        from runyard.environments.spec import write_conda_yaml

        python = data["environment"]["python"]
        python["condaDependencies"], python["condaDependenciesFile"] = None, _PACKAGES_FILE
        packages = write_conda_yaml(config.environment._spec().python.conda)
        _write(os.path.join(os.path.dirname(target), _PACKAGES_FILE), packages)
    _write(target, yaml.safe_dump(data, sort_keys=False, default_flow_style=False, allow_unicode=True))
    return target


def load(path: str, name: Optional[str] = None) -> RunConfiguration:
    """Read the file; UserErrorException where there is none, or it cannot be read."""
    from runyard.environments.spec import compose_yaml

    file = _find(os.fspath(path), name)
    with open(file, encoding="utf-8-sig") as stream:
        node = compose_yaml(stream.read(), f"The run configuration {file!r}")
    data = {} if node is None else _plain(node)
    if not isinstance(data, dict):
        raise UserErrorException(f"The run configuration {file!r} holds no keys and values.")
    return _read(data, file)


def delete(path: str, name: str) -> None:
    """Delete the file of that name; UserErrorException where there is none."""
    os.unlink(_find(path, name))


def _place(path: Optional[str], name: Optional[str]) -> str:
    """Where to write: a project's .azureml (or aml_config, where it has only that), or the file that is named."""
    folder = os.fspath(path or ".")
    if not os.path.isdir(folder):
        if name is not None or not os.path.isdir(os.path.dirname(folder) or "."):
            raise UserErrorException(f"There is no folder {folder!r} to save the run configuration in.")
        return folder
    if not name:
        raise UserErrorException("A run configuration needs a name to be saved; pass name='...'.")
    has_old_only = not os.path.isdir(os.path.join(folder, ".azureml")) and os.path.isdir(
        os.path.join(folder, "aml_config")
    )
    inside = "aml_config" if has_old_only else ".azureml"
    return os.path.join(folder, inside, name if name.endswith(_SUFFIX) else name + _SUFFIX)


def _find(path: str, name: Optional[str]) -> str:
    if name is None and os.path.isfile(path):
        return path
    places = [os.path.join(path, folder) for folder in _FOLDERS]
    for place in places if name is not None else ():
        for file in (f"{name}{_SUFFIX}", str(name)):
            if os.path.isfile(os.path.join(place, file)):
                return os.path.join(place, file)
    known = sorted({one[: -len(_SUFFIX)] for place in places for one in _listed(place) if one.endswith(_SUFFIX)})
    asked = f"no run configuration {name!r}" if name is not None else "no single run configuration"
    hint = f"pass name= with one of {', '.join(known)}" if known else "save one there first"
    raise UserErrorException(f"There is {asked} in {path!r}; {hint}.")


def _listed(folder: str) -> List[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{os.getpid()}.part"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)


def _written(config: RunConfiguration) -> Dict[str, Any]:
    """The configuration in v1's keys, as plain data."""
    from runyard.environments.folder import definition

    if config.output_data:
        raise RunConfigurationException(
            f"A file cannot hold the outputs {', '.join(config.output_data)}; add them where the run is submitted."
        )
    references, data = dict(config.data_references), dict(config.data)
    data_of_arguments(config.arguments, references, data)
    found: Dict[str, Any] = {key: _bare(getattr(config, attribute)) for key, attribute in _PLAIN.items()}
    found["target"] = getattr(config.target, "name", config.target)
    found["environment"] = definition(config.environment._spec())
    for name in _SECTIONS:
        found[name] = {_key(field): _bare(value) for field, value in vars(getattr(config, name)).items()}
    docker = config.docker
    found["docker"] = None if docker is None else {_key(field): _bare(one) for field, one in vars(docker).items()}
    found["dataReferences"] = {name: _reference(one) for name, one in references.items()}
    found["data"] = {
        name: (DataConfiguration._of(name, one) if isinstance(one, DatasetConsumptionConfig) else one)._written()
        for name, one in data.items()
    }
    found["outputData"] = {}
    return found


def data_of_arguments(arguments: Any, references: Dict[str, Any], data: Dict[str, Any]) -> None:
    """Note what the arguments name, whose texts alone say only where it will be."""
    for one in arguments if isinstance(arguments, (list, tuple)) else ():
        if isinstance(one, DataReference):
            references.setdefault(one.data_reference_name, one)
        elif isinstance(one, DatasetConsumptionConfig):
            data.setdefault(one.name, one)


def _reference(one: Any) -> Dict[str, Any]:
    known = DataReferenceConfiguration._of(one) if isinstance(one, DataReference) else one
    return {_key(field): value for field, value in vars(known).items()}


def _bare(value: Any) -> Any:
    """As YAML can hold it."""
    if isinstance(value, dict):
        return {str(key): _bare(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bare(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _read(data: Dict[str, Any], file: str) -> RunConfiguration:
    from runyard.environments.folder import read_definition

    found = RunConfiguration()
    _say_unknown(data, found, file)
    for key, attribute in _PLAIN.items():
        if data.get(key) is not None:
            setattr(found, attribute, data[key])
    found.arguments = _texts(found.arguments)
    found.environment_variables = {str(key): str(value) for key, value in _mapping(data, "environmentVariables")}
    for name in _SECTIONS:
        _fill(getattr(found, name), dict(_mapping(data, name)))
    environment = dict(_mapping(data, "environment"))
    if environment:
        found.environment = Environment._of(read_definition(environment))
        found.environment.python.conda_dependencies_file = _packages_file(environment, file)
    if data.get("docker") is not None:
        from runyard.sdk.environment_sections import DockerConfiguration

        found.docker = DockerConfiguration()
        _fill(found.docker, dict(_mapping(data, "docker")))
    references = dict(_mapping(data, "dataReferences"))
    for name in references:
        reference = DataReferenceConfiguration()
        _fill(reference, dict(_mapping(references, name)))
        found.data_references[name] = reference
    found.data = {name: DataConfiguration._read(name, one) for name, one in _mapping(data, "data")}
    return found


def _say_unknown(data: Dict[str, Any], config: RunConfiguration, file: str) -> None:
    """A count whose key is misspelt would else be 1, and nobody would know."""
    known = (*_PLAIN, *_SECTIONS, *_OTHERS)
    unknown = [key for key, value in data.items() if key not in known and value not in (None, {}, [])]
    for name in ("tensorflow", "mpi", "pytorch", "amlcompute"):
        keys = [_key(field) for field in vars(getattr(config, name))]
        unknown += [f"{name}.{key}" for key, _ in _mapping(data, name) if key not in keys]
    if unknown:
        say_once(f"The run configuration {file!r} has keys that mean nothing here: {', '.join(unknown)}.")


def _fill(section: Any, data: Dict[str, Any]) -> None:
    """Set a section's attributes from the file; what neither it nor v1 knows is passed over."""
    for field in vars(section):
        if data.get(_key(field)) is not None:
            setattr(section, field, data[_key(field)])


def _mapping(data: Dict[str, Any], key: str) -> List[Tuple[str, Any]]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise UserErrorException(f"'{key}' of a run configuration holds keys and values, not {value!r}.")
    return list(value.items())


def _texts(arguments: Any) -> Any:
    return [str(one) for one in arguments] if isinstance(arguments, list) else arguments


def _packages_file(environment: Dict[str, Any], file: str) -> Optional[str]:
    """The conda file that the environment names, relative to the project or to the configuration itself."""
    named = dict(_mapping(environment, "python")).get("condaDependenciesFile")
    if not named:
        return None
    beside = os.path.dirname(os.path.abspath(file))
    for folder in (os.path.dirname(beside), beside):
        if os.path.isfile(os.path.join(folder, str(named))):
            return os.path.join(folder, str(named))
    raise UserErrorException(f"The conda file {named!r}, which {file!r} names, is not beside it.")


def _key(field: str) -> str:
    """v1's spelling in files: data_store_name is dataStoreName."""
    first, *others = field.split("_")
    return first + "".join(one.capitalize() for one in others)


def _plain(node: Any) -> Any:
    """A YAML node as plain data. Texts keep how they are written: 1.10 is no number, and 010 not eight."""
    if node.id == "mapping":
        return {str(key.value): _plain(value) for key, value in node.value}
    if node.id == "sequence":
        return [_plain(one) for one in node.value]
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return node.value.lower() in ("true", "yes", "on")
    return int(node.value) if kind == "int" and _WHOLE.match(node.value) else str(node.value)
