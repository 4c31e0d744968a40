"""From a ScriptRunConfig to an accepted run: checked, its folder sent as far as the server lacks it, submitted."""

import os
import re
import shlex
import subprocess
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Tuple

from runyard.client.home import home_folder
from runyard.client.transfer import send_blobs, send_bytes
from runyard.errors import ExperimentExecutionException, SnapshotException, UserErrorException
from runyard.protocol.environments import EnvironmentSpec, without_credentials
from runyard.protocol.outputs import OutputMode, OutputSpec
from runyard.protocol.runs import InputMode, InputSpec, RunKind, RunSpec
from runyard.sdk import notebook_script
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.environment import Environment, variable_texts
from runyard.sdk.environment_sections import DockerConfiguration
from runyard.sdk.notices import say_kept
from runyard.sdk.observer import observe_run
from runyard.sdk.output_dataset import OutputFileDatasetConfig
from runyard.sdk.progress import Progress
from runyard.sdk.run import Run
from runyard.sdk.run_sections import DataConfiguration, DataPath, DataReferenceConfiguration
from runyard.sdk.run_sections import Dataset as SectionDataset
from runyard.sdk.run_target import target_of
from runyard.sdk.script_run_config import ScriptRunConfig
from runyard.sdk.session import current_server, is_in_run
from runyard.sdk.whole_number import whole_number

if TYPE_CHECKING:
    from runyard.files.snapshots import Snapshot
    from runyard.sdk.experiment import Experiment

#: How long git may take to say what is checked out, seconds; a repository that takes longer is left out.
GIT_TIMEOUT_S = 2.0

#: What makes a command's text one for a shell: operators, redirections, substitutions, a variable set in front.
_SHELL = re.compile(r"[|&;<>()`\n]|^\s*[A-Za-z_]\w*=")
#: What stands for itself in such a text: a word in quotes (in double ones, without a substitution), a quoted character.
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\`$]|\$(?!\())*\"|\\.")


def submit(experiment: "Experiment", config: Any, tags: Optional[Dict[str, str]], **options: Any) -> Run:
    """Submit ``config``; returns the accepted run."""
    config = _script_run_config(config, options)
    if is_in_run():
        raise UserErrorException("A run cannot submit runs in this version; submit from outside.")
    from runyard.files.snapshots import take_snapshot

    workspace = experiment.workspace
    git = _GitFacts(config.source_directory)
    snapshot = take_snapshot(config.source_directory, str(home_folder() / "cache" / "snapshots"))
    data = RunData(workspace)
    spec = replace(
        make_spec(config, snapshot, data, options.get("run_id") or new_run_id(experiment.name), experiment.name),
        target=target_of(config.run_config, workspace),
        display_name=options.get("display_name"),
        tags=_tags(tags),
        properties=git.properties(),
    )
    record = _send(workspace, spec, snapshot)
    data.note_run(spec.run_id)
    return Run(experiment, spec.run_id, _record=record)


def make_spec(config: ScriptRunConfig, snapshot: "Snapshot", data: "RunData", run_id: str, experiment: str) -> RunSpec:
    """What is asked for, checked; its target, which may have to be made first, is left open."""
    _check_run_folders(config, snapshot)
    distribution, node_count = config.run_config._distribution()
    script = _script(config, snapshot)
    environment = _environment(config)
    command, arguments = _command_line(config, data)
    if script is not None and script.endswith(notebook_script.SUFFIX):
        command = notebook_script.command_of(script, environment)
    return RunSpec(
        run_id=run_id,
        experiment=experiment,
        script=script,
        command=command,
        arguments=arguments,
        environment=environment,
        snapshot=snapshot.digest,
        inputs=tuple(data.inputs.values()),
        outputs=tuple(data.outputs.values()),
        environment_variables=_variables(config, data.inputs.values()),
        node_count=node_count,
        priority=_whole("A priority", config.run_config.priority) or 0,
        distribution=distribution,
        max_run_duration_s=_whole("max_run_duration_seconds", config.run_config.max_run_duration_seconds),
        max_infrastructure_retries=_whole("max_infrastructure_retries", config.run_config.max_infrastructure_retries),
    )


def _whole(what: str, asked: Any) -> Optional[int]:
    found = whole_number(asked)
    if found is None and asked is not None:
        raise UserErrorException(f"{what} is a whole number, not {str(asked)[:80]!r}.")
    return found


def start_interactive(experiment: "Experiment", display_name: Optional[str]) -> Run:
    """A run that this process carries itself."""
    spec = RunSpec(
        run_id=str(uuid.uuid4()),
        experiment=experiment.name,
        kind=RunKind.INTERACTIVE,
        display_name=display_name,
        environment=EnvironmentSpec(),
    )
    record = experiment.workspace._call("submit_run", spec)
    observe_run(experiment.workspace.name, spec.run_id)
    return Run(experiment, spec.run_id, _record=record, _is_interactive=True)


#: What submit() takes beside an estimator, in place of what the estimator has.
_OVERRIDES = ("script_params", "inputs", "source_directory_data_store")
#: All that it takes by name, beside the tags.
_OPTIONS = ("run_id", "display_name", *_OVERRIDES)


def _script_run_config(config: Any, options: Dict[str, Any]) -> ScriptRunConfig:
    """What is submitted: the configuration itself, or what an estimator makes."""
    unknown = [name for name in options if name not in _OPTIONS and not name.startswith("_")]
    say_kept(unknown, f"submit() takes tags, {', '.join(_OPTIONS)}")
    overrides = {name: options[name] for name in _OVERRIDES if options.get(name) is not None}
    make = getattr(config, "_script_run_config", None)
    if make is not None:
        found: ScriptRunConfig = make(**overrides)
        return found
    if not isinstance(config, ScriptRunConfig):
        raise ExperimentExecutionException(
            f"submit() takes a ScriptRunConfig or an estimator in this version, not {type(config).__name__}; "
            "docs/v1_coverage.md lists what comes."
        )
    if overrides:
        raise ExperimentExecutionException(
            f"submit() takes {', '.join(overrides)} beside an estimator; a ScriptRunConfig has arguments."
        )
    return config


def new_run_id(experiment: str) -> str:
    """v1's form: the experiment, the second, eight hex digits."""
    return f"{experiment}_{int(time.time())}_{os.urandom(4).hex()}"


def _send(workspace: Any, spec: RunSpec, snapshot: "Snapshot") -> Any:
    """Submit; only where the server does not have the folder yet, send what it lacks and submit again."""
    try:
        return workspace._call("submit_run", spec)
    except SnapshotException:
        pass
    from runyard.files.snapshots import encode_snapshot

    with Progress("Sending the source folder", snapshot.size_bytes, len(snapshot.sources)) as progress:
        send_blobs(current_server(), workspace.name, snapshot.sources, progress.add_bytes)
    # The tree goes last: where it is, everything that it names is.
    send_bytes(current_server(), workspace.name, [encode_snapshot(snapshot)])
    return workspace._call("submit_run", spec)


def _check_run_folders(config: ScriptRunConfig, snapshot: "Snapshot") -> None:
    from runyard.files.ignore import RUN_FOLDERS

    for entry in snapshot.tree.entries:
        if entry.path in RUN_FOLDERS:
            raise UserErrorException(
                f"The file {entry.path!r} in {config.source_directory!r} stands where the run's folder {entry.path!r} "
                "goes; rename it, or name it in .amlignore."
            )


def _script(config: ScriptRunConfig, snapshot: "Snapshot") -> Optional[str]:
    """The script's path in the snapshot; it may be given as './train.py', or as an absolute path."""
    if config.script is None:
        return None
    root = os.path.realpath(config.source_directory)
    absolute = os.path.join(root, config.script)
    parent, name = os.path.split(absolute)
    for place in (os.path.normpath(absolute), os.path.join(os.path.realpath(parent), name)):
        script = os.path.relpath(place, root).replace(os.sep, "/")
        if any(entry.path == script for entry in snapshot.tree.entries):
            return script
    if os.path.isfile(absolute) and not script.startswith("../"):
        raise UserErrorException(f"The script {config.script!r} is left out by the folder's ignore rules.")
    raise UserErrorException(f"The script {config.script!r} is not in {config.source_directory!r}.")


def _command_line(config: ScriptRunConfig, data: "RunData") -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """The words of the command and of its arguments; ``data`` gets what they and the configuration name."""
    command = tuple(str(data.bound(one)) for one in _command(config))
    arguments = tuple(str(data.bound(one)) for one in config.arguments)
    asked = config.run_config
    for section in (asked.data_references, asked.data, asked.output_data):
        for name, one in section.items():
            data.bound_of_section(name, one)
    return command, arguments


class RunData:
    """What a run reads and writes, by name; two different ones of one name get names of their own."""

    def __init__(self, workspace: Any) -> None:
        self._workspace = workspace
        self.inputs: Dict[str, InputSpec] = {}
        self.outputs: Dict[str, OutputSpec] = {}
        self._written: List[Tuple[OutputFileDatasetConfig, str]] = []

    def bound(self, one: Any) -> Any:
        """The argument, with its data noted."""
        if isinstance(one, OutputFileDatasetConfig):
            name = self._note(one._output(self._workspace), self.outputs)
            self._written.append((one, name))
        elif isinstance(one, DataReference) and one.mode == OutputMode.UPLOAD:
            name = self._note(one._output(self._workspace), self.outputs)
        elif isinstance(one, (DatasetConsumptionConfig, DataReference)):
            name = self._note(one._input(self._workspace), self.inputs)
        else:
            return one
        return one._named(name)

    def bound_of_section(self, name: str, one: Any) -> Any:
        """An entry of a section, which may be as a file has it."""
        if isinstance(one, (DataReferenceConfiguration, DataConfiguration, DataPath, SectionDataset)):
            one = one._bound(name, self._workspace)
        return self.bound(one)

    def note_run(self, run_id: str) -> None:
        """Let each output know which run writes it."""
        for output, name in self._written:
            output._note_run(self._workspace, self.outputs[name], run_id)

    def _note(self, asked: Any, noted: Dict[str, Any]) -> str:
        """Keep it, under a name that nothing else has."""
        name, number = str(asked.name), 1
        while any(
            name in kind and replace(kind[name], name=asked.name) != asked for kind in (self.inputs, self.outputs)
        ):
            number += 1
            name = f"{asked.name}_{number}"
        noted[name] = replace(asked, name=name)
        return name


def _command(config: ScriptRunConfig) -> Sequence[Any]:
    """The command's words. A list is taken as it is; in a text, what a shell would act on needs one."""
    command = config.command
    if not command:
        return ()
    if not isinstance(command, str):
        return list(command)
    if not _SHELL.search(_QUOTED.sub("", command)):
        try:
            return shlex.split(command)
        except ValueError as error:
            raise UserErrorException(f"The command {command!r} cannot be split: {error}.") from None
    if config.arguments:
        raise UserErrorException("A command for a shell takes no arguments; write them into the command.")
    return ["bash", "-c", command]


def _tags(tags: Any) -> Dict[str, str]:
    if tags is not None and not isinstance(tags, dict):
        raise UserErrorException(f"tags is a dict of names and values, not {tags!r}.")
    return {str(key): "" if value is None else str(value) for key, value in (tags or {}).items()}


def _variables(config: ScriptRunConfig, inputs: Iterable[InputSpec]) -> Dict[str, str]:
    """The user's variables, and the ids of the datasets that have no path on the node."""
    direct = [one for one in inputs if one.mode == InputMode.DIRECT]
    found = {"AZUREML_DATAREFERENCE_" + one.name: str(one.dataset_id) for one in direct}
    found.update(variable_texts(config.run_config.environment_variables))
    return found


def _environment(config: ScriptRunConfig) -> EnvironmentSpec:
    found = config.run_config.environment
    if not isinstance(found, Environment):
        raise UserErrorException(f"A run's environment is an Environment, not {found!r}.")
    spec, docker = found._spec(), config.run_config.docker
    if docker is None:
        return spec
    if not isinstance(docker, DockerConfiguration):
        raise UserErrorException(f"docker_runtime_config is a DockerConfiguration, not {docker!r}.")
    return replace(spec, docker=docker._over(spec.docker))


class _GitFacts:
    """What is checked out in a folder; asked while the folder is being hashed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._found: Dict[str, str] = {}
        start = Path(folder).absolute()
        has_git = any((one / ".git").exists() for one in [start, *start.parents])
        self._thread = threading.Thread(target=self._ask, daemon=True) if has_git else None
        if self._thread is not None:
            self._thread.start()

    def properties(self) -> Dict[str, str]:
        """v1's properties of a run; empty where the folder is in no repository."""
        if self._thread is not None:
            self._thread.join(GIT_TIMEOUT_S)
        found = dict(self._found)
        mirror = {name.replace("azureml.git.", "mlflow.source.git."): text for name, text in found.items()}
        kept = ("mlflow.source.git.repoURL", "mlflow.source.git.branch", "mlflow.source.git.commit")
        renamed = {name.replace("repository_uri", "repoURL"): text for name, text in mirror.items()}
        found.update({name: text for name, text in renamed.items() if name in kept})
        return found

    def _ask(self) -> None:
        questions = {
            "azureml.git.repository_uri": ["config", "--get", "remote.origin.url"],
            "azureml.git.branch": ["rev-parse", "--abbrev-ref", "HEAD"],
            "azureml.git.commit": ["rev-parse", "HEAD"],
            "azureml.git.dirty": ["status", "--porcelain", "--", "."],
        }
        for name, words in questions.items():
            answer = self._git(words)
            if answer is not None:
                self._found[name] = str(bool(answer)) if name.endswith("dirty") else without_credentials(answer)

    def _git(self, words: List[str]) -> Optional[str]:
        try:
            done = subprocess.run(
                ["git", "-C", self._folder, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=GIT_TIMEOUT_S,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None
