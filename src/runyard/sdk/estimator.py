"""Estimator: v1's older way to describe a training job; it makes a ScriptRunConfig, which is what gets submitted."""

import copy
import os
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

from runyard.errors import TrainingException
from runyard.sdk.conda_dependencies import CondaDependencies
from runyard.sdk.data_path import resume_words
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.distributed import MpiConfiguration
from runyard.sdk.environment import Environment
from runyard.sdk.estimator_distribution import ProcessWish, configuration_of
from runyard.sdk.estimator_environment import EnvironmentWish, environment_of
from runyard.sdk.estimator_version import FrameworkVersion
from runyard.sdk.notices import say_kept, say_once
from runyard.sdk.run_configuration import RunConfiguration
from runyard.sdk.script_run_config import MAX_DURATION_SECONDS_DEFAULT, ScriptRunConfig

#: Kinds of compute targets that are one machine.
_ONE_MACHINE = ("Remote", "VirtualMachine", "ComputeInstance")


class Estimator:
    """A script with its parameters, its environment and where it runs; ``Experiment.submit`` takes it.

    What does not fit together raises TrainingException. ``run_config`` may be changed until the submission.
    """

    #: What distributed_backend may be.
    _BACKENDS: Tuple[str, ...] = ("mpi",)
    #: Parameters that only some of v1's estimators had, and this one has not.
    _LACKS: FrozenSet[str] = frozenset(("framework_version", "worker_count", "parameter_server_count"))

    def __init__(
        self,
        source_directory: Any,
        *,
        compute_target: Any = None,
        vm_size: Optional[str] = None,
        vm_priority: Optional[str] = None,
        entry_script: Any = None,
        script_params: Optional[Dict[str, Any]] = None,
        node_count: int = 1,
        process_count_per_node: int = 1,
        worker_count: int = 1,
        parameter_server_count: int = 1,
        distributed_backend: Optional[str] = None,
        distributed_training: Any = None,
        use_gpu: bool = False,
        use_docker: bool = True,
        custom_docker_base_image: Optional[str] = None,
        custom_docker_image: Optional[str] = None,
        image_registry_details: Any = None,
        user_managed: bool = False,
        conda_packages: Optional[List[str]] = None,
        pip_packages: Optional[List[str]] = None,
        conda_dependencies_file_path: Optional[str] = None,
        pip_requirements_file_path: Optional[str] = None,
        conda_dependencies_file: Optional[str] = None,
        pip_requirements_file: Optional[str] = None,
        environment_variables: Optional[Dict[str, str]] = None,
        environment_definition: Optional[Environment] = None,
        inputs: Optional[List[Any]] = None,
        source_directory_data_store: Any = None,
        shm_size: Optional[str] = None,
        resume_from: Any = None,
        max_run_duration_seconds: Optional[int] = None,
        framework_version: Optional[str] = None,
        **switches: Any,
    ) -> None:
        self._refuse_unknown(dict(locals()), switches)
        self._announce()
        self._source_directory = _checked_folder(source_directory)
        self._script_params = _checked_params(script_params)
        processes = ProcessWish(
            node_count,
            process_count_per_node,
            worker_count,
            parameter_server_count,
            distributed_backend,
            distributed_training,
        )
        distribution, nodes = configuration_of(processes, self._BACKENDS, type(self).__name__)
        _check_target(compute_target, vm_size, nodes)
        wish = EnvironmentWish(
            source_directory=self._source_directory,
            conda_packages=conda_packages,
            pip_packages=pip_packages,
            conda_dependencies_file_path=conda_dependencies_file_path,
            pip_requirements_file_path=pip_requirements_file_path,
            conda_dependencies_file=conda_dependencies_file,
            pip_requirements_file=pip_requirements_file,
            custom_docker_base_image=custom_docker_base_image,
            custom_docker_image=custom_docker_image,
            image_registry_details=image_registry_details,
            use_gpu=use_gpu,
            use_docker=use_docker,
            user_managed=user_managed,
            shm_size=shm_size,
            environment_definition=environment_definition,
        )
        framework = self._find_framework(framework_version, wish)
        self._resume_words = resume_words(resume_from)
        self._config = ScriptRunConfig(
            self._source_directory,
            _checked_script(entry_script, self._source_directory),
            _words(self._script_params) + self._resume_words,
            compute_target="amlcompute" if compute_target is None else compute_target,
            environment=environment_of(wish, framework, isinstance(distribution, MpiConfiguration)),
            distributed_job_config=distribution,
            max_run_duration_seconds=(
                MAX_DURATION_SECONDS_DEFAULT if max_run_duration_seconds is None else max_run_duration_seconds
            ),
        )
        asked = self._config.run_config
        asked.script, asked.arguments, asked.node_count = self._config.script, self._config.arguments, nodes
        asked.environment_variables = _checked_variables(environment_variables)
        _set_inputs(asked, inputs)
        _set_size(asked, compute_target, vm_size, vm_priority)
        _set_source(asked, source_directory_data_store)

    @property
    def source_directory(self) -> str:
        """The folder that is sent."""
        return self._source_directory

    @property
    def run_config(self) -> RunConfiguration:
        """What was made of the parameters; changes count until the submission."""
        return self._config.run_config

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The packages of the environment."""
        return self.run_config.environment.python.conda_dependencies

    def _script_run_config(
        self,
        script_params: Optional[Dict[str, Any]] = None,
        inputs: Optional[List[Any]] = None,
        source_directory_data_store: Any = None,
    ) -> ScriptRunConfig:
        """What is submitted; ``script_params`` replace those of the same name, ``inputs`` all of them."""
        found = copy.copy(self._config)
        found.run_config = copy.copy(self._config.run_config)
        found.script, found.arguments = found.run_config.script, list(found.run_config.arguments)
        if script_params is not None:
            found.arguments = _words({**self._script_params, **_checked_params(script_params)}) + self._resume_words
        if inputs is not None:
            found.run_config.data_references, found.run_config.data = {}, {}
            _set_inputs(found.run_config, inputs)
        _set_source(found.run_config, source_directory_data_store)
        return found

    def _find_framework(self, version: Optional[str], wish: EnvironmentWish) -> Optional[FrameworkVersion]:
        """The framework to install; none, for an estimator of any framework."""
        return None

    def _announce(self) -> None:
        say_once(
            f"The {type(self).__name__} estimator is deprecated: ScriptRunConfig with an Environment does the same "
            "(docs/howto/estimators.md shows how)."
        )

    def _refuse_unknown(self, asked: Dict[str, Any], switches: Dict[str, Any]) -> None:
        """TypeError, as Python itself has it; v1's private switches mean nothing and are accepted."""
        defaults = Estimator.__init__.__kwdefaults__ or {}
        unknown = [name for name in sorted(self._LACKS) if asked[name] != defaults[name]]
        unknown += [name for name in switches if not name.startswith("_")]
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown[0]!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(source_directory={self._source_directory!r}, script={self._config.script!r})"


def _checked_folder(source_directory: Any) -> str:
    """The folder; None is the current one, as in v1."""
    if source_directory is not None and not isinstance(source_directory, (str, os.PathLike)):
        raise TrainingException(f"source_directory is the path of a folder, not {source_directory!r}.")
    folder = str(os.fspath(source_directory or "."))
    if not os.path.isdir(folder):
        raise TrainingException(f"The source_directory {folder!r} is no folder here.")
    return folder


def _checked_script(entry_script: Any, folder: str) -> str:
    if not isinstance(entry_script, (str, os.PathLike)) or not os.fspath(entry_script):
        raise TrainingException("An estimator needs entry_script, the script's path in source_directory.")
    name = str(os.fspath(entry_script))
    if not os.path.isfile(os.path.join(folder, name)):
        raise TrainingException(f"The entry_script {name!r} is not in {folder!r}.")
    return name


def _checked_params(script_params: Any) -> Dict[str, Any]:
    if script_params is None:
        return {}
    if not isinstance(script_params, dict):
        raise TrainingException(f"script_params is a dict of flags and values, not {script_params!r}.")
    return dict(script_params)


def _checked_variables(environment_variables: Any) -> Dict[str, str]:
    if environment_variables is not None and not isinstance(environment_variables, dict):
        raise TrainingException(f"environment_variables is a dict of names and values, not {environment_variables!r}.")
    return dict(environment_variables or {})


def _words(script_params: Dict[str, Any]) -> List[Any]:
    """Flags and values one after the other; '' stands for a flag without a value."""
    found: List[Any] = []
    for name, value in script_params.items():
        found += [name] if isinstance(value, str) and not value else [name, value]
    return found


def _check_target(compute_target: Any, vm_size: Optional[str], nodes: int) -> None:
    if compute_target is None and vm_size is None:
        raise TrainingException("An estimator needs compute_target, or vm_size for a cluster that is made for it.")
    name = getattr(compute_target, "name", compute_target)
    if nodes > 1 and (name == "local" or getattr(compute_target, "type", "") in _ONE_MACHINE):
        raise TrainingException(f"node_count is {nodes}, and {name!r} is one machine; use an AmlCompute cluster.")


def _set_inputs(asked: RunConfiguration, inputs: Any) -> None:
    if inputs is not None and not isinstance(inputs, (list, tuple)):
        raise TrainingException(f"inputs is a list of datasets and data references, not {inputs!r}.")
    for one in inputs or ():
        if isinstance(one, DataReference):
            asked.data_references[one.data_reference_name] = one
        elif isinstance(one, DatasetConsumptionConfig):
            asked.data[one.name] = one
        else:
            raise TrainingException(
                f"inputs holds data references and datasets as dataset.as_named_input(name) gives them, not {one!r}."
            )


def _set_size(asked: RunConfiguration, compute_target: Any, vm_size: Optional[str], vm_priority: Optional[str]) -> None:
    """v1's cluster for one job: found or made at the submission, by its size."""
    if compute_target is not None:
        for name, given in (("vm_size", vm_size), ("vm_priority", vm_priority)):
            if given is not None:
                say_once(f"{name} is for an estimator without compute_target, which has one already; it is not used.")
        return
    asked.amlcompute.vm_size, asked.amlcompute.vm_priority = vm_size, vm_priority


def _set_source(asked: RunConfiguration, datastore: Any) -> None:
    if datastore is None:
        return
    say_kept(["source_directory_data_store"], "the source folder goes to the server's own store")
    asked.source_directory_data_store = getattr(datastore, "name", datastore)
