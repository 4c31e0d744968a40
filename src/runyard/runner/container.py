"""The script's process inside a container: the engine's command line, its mounts and variables, and its end."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from runyard.environments.engine import Engine, engine_environment, get_engine, matters_to_engine, remove
from runyard.environments.kit import Kit, compile_kit
from runyard.environments.pythons import find_minor
from runyard.environments.realise import Realised
from runyard.errors import UserErrorException
from runyard.protocol.plan import ContainerPlan
from runyard.protocol.record import record
from runyard.runner.bound import BoundFolder, bound_folders, run_folders
from runyard.runner.folder import AttemptFolder, host_name_of
from runyard.runner.mpi_daemon import VARIABLE as HOST_NAME
from runyard.runner.processes import Script, exit_code
from runyard.runner.team import Launcher
from runyard.runner.variables import own_gpus

#: "all" on the node: users may add any argument to the engine's "run", and so become root on it.
ARGUMENTS_VARIABLE = "RUNYARD_CONTAINER_ARGUMENTS"
#: Removing a container whose processes do not end takes as long as the kernel does, seconds.
REMOVE_TIMEOUT_S = 30.0

#: Arguments that change the container and give it nothing of the node.
_HARMLESS = frozenset(
    ("--add-host", "--blkio-weight", "--cpu-period", "--cpu-quota", "--cpu-shares", "-c", "--cpus", "--cpuset-cpus",
     "--cpuset-mems", "--dns", "--dns-option", "--dns-search", "-e", "--env", "--expose", "--gpus", "--health-cmd",
     "-h", "--hostname", "--init", "--ipc", "-l", "--label", "-m", "--memory", "--memory-reservation",
     "--memory-swap", "--memory-swappiness", "--network", "--net", "--no-healthcheck", "--oom-kill-disable",
     "--oom-score-adj", "--pids-limit", "-p", "--publish", "--read-only", "--shm-size", "--stop-signal",
     "--stop-timeout", "--tmpfs", "--ulimit")
)  # fmt: skip


@record
class Invocation:
    """All that one "run" of the engine is made of."""

    name: str
    image: str
    #: Program and arguments.
    command: Tuple[str, ...]
    work: str
    #: "uid:gid" of the caller.
    user: str
    mounts: Tuple[BoundFolder, ...]
    #: Variables that the engine takes over from its client's environment: a command line is seen by everyone.
    names: Tuple[str, ...]
    #: File with those that would change the client itself.
    variables_file: str
    #: What it takes its host for; '': what it is given.
    host_name: str = ""


class ContainerScript(Script):
    """The engine's client; it forwards signals to the script and ends as the script does."""

    def wait(self, timeout_s: float) -> Optional[int]:
        """As Script.wait: 128 + n is the script's own end by signal n, told by the container's first process."""
        return exit_code(super().wait(timeout_s))


def contained(folder: AttemptFolder, python: Realised, kit: Kit, data: Dict[str, str]) -> Launcher:
    """Starts processes of that run, each in a container of its own; ServiceException where there is no engine."""
    engine = get_engine("The run's environment is an image")
    same = find_minor(python.python)
    if same is not None:
        # Byte code is the same for every build of a minor version.
        compile_kit(kit, same.path)
    bound = bound_folders(folder, kit, data)
    # Of the runner's own programs, the image has those that are copied here.
    (folder.path / "bin").mkdir(exist_ok=True)
    folder.python, folder.programs = python.interpreter, str(folder.path / "bin")
    names: List[str] = []

    def launch(command: List[str], variables: Dict[str, str], _work: Path, log: Path) -> Script:
        names.append(f"{host_name_of(folder.key)}-{len(names)}")
        with open(str(_record_of(folder)), "w", encoding="utf-8") as stream:
            json.dump({"engine": asdict(engine), "names": names}, stream)
        mounts = [*run_folders(folder), *bound]
        words, outside = _enter(folder, engine, names[-1], python.image, command, variables, mounts)
        return ContainerScript(words, outside, folder.work, log)

    return launch


def _enter(
    folder: AttemptFolder,
    engine: Engine,
    name: str,
    image: str,
    command: Sequence[str],
    values: Dict[str, str],
    mounts: Sequence[BoundFolder],
) -> Tuple[List[str], Dict[str, str]]:
    """The command and the variables of the engine's client, for a script's command and variables."""
    kept = {name: text for name, text in values.items() if not matters_to_engine(name)}
    variables_file = folder.path / f"{name}.env"
    _write_variables(variables_file, {name: text for name, text in values.items() if name not in kept})
    asked = Invocation(
        name=name,
        image=image,
        command=tuple(command),
        work=str(folder.work),
        user=f"{os.getuid()}:{os.getgid()}",
        mounts=tuple(mounts),
        names=tuple(sorted(kept)),
        variables_file=str(variables_file),
        host_name=values.get(HOST_NAME, ""),
    )
    words = run_arguments(engine, asked, folder.plan.container or ContainerPlan(), own_gpus(folder))
    return [engine.program, *words], {**engine_environment(os.environ), **kept}


def run_arguments(
    engine: Engine, asked: Invocation, plan: ContainerPlan, gpus: Optional[Sequence[str]] = None
) -> List[str]:
    """The engine's words for one script; ``gpus`` are the numbers of those that it may have, None: all."""
    mine = _checked(plan.arguments)
    if gpus is not None:
        mine = _without(mine, "--gpus")
    words = ["run", "--rm", "--init", "--name", asked.name, "--pull", "never", "--log-driver", "none"]
    words += ["--security-opt", "no-new-privileges", *_user(engine, asked.user)]
    if not _has(mine, "--network", "--net"):
        # The server and other runs are reached as by any other process of this host.
        words += ["--network", "host"]
    if plan.shm_size and not _has(mine, "--shm-size", "--ipc"):
        words += ["--shm-size", plan.shm_size]
    if engine.has_gpus and not _has(mine, "--gpus"):
        words += _gpu_words(engine, gpus)
    if asked.host_name:
        words += ["--hostname", asked.host_name]
    for mount in asked.mounts:
        words += ["--mount", _mount_text(mount)]
    words += ["--workdir", asked.work, "--env-file", asked.variables_file]
    for name in asked.names:
        words += ["--env", name]
    # An image's own entry point would get the script as its arguments.
    return [*words, *mine, "--entrypoint", asked.command[0], asked.image, *asked.command[1:]]


def remove_containers(folder: AttemptFolder) -> None:
    """End the attempt's containers and remove them, whoever started them; nothing happens where none is left."""
    try:
        found = json.loads(_record_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    engine = Engine(**found["engine"])
    remove(engine, remove_arguments(engine, found["names"]), REMOVE_TIMEOUT_S)


def remove_arguments(engine: Engine, names: Sequence[str]) -> List[str]:
    """Ends and removes at once: the script has had its time to end.

    Podman would give it ten seconds more, and would remove none where one of the names is gone already.
    """
    return ["rm", "--force", *(["--time", "0", "--ignore"] if engine.kind == "podman" else []), *names]


def _record_of(folder: AttemptFolder) -> Path:
    return folder.path / "container.json"


def _user(engine: Engine, user: str) -> List[str]:
    """The caller's uid inside, so that files are its own: without root's rights an engine maps it by itself."""
    if not engine.is_rootless:
        return ["--user", user]
    return ["--user", "0:0"] if engine.kind == "docker" else ["--userns", "keep-id", "--user", user]


def _checked(arguments: Sequence[str]) -> List[str]:
    """What the user adds, unless it would open the node to the run."""
    if os.environ.get(ARGUMENTS_VARIABLE) == "all":
        return list(arguments)
    for word in arguments:
        name = word.split("=", 1)[0]
        if name.startswith("-") and name not in _HARMLESS and not re.match(r"^-[cehlmp].+", word):
            raise UserErrorException(
                f"docker.arguments holds {name!r}, which may give the run more of the node than its own files.",
                hint=f"Leave it out, or set {ARGUMENTS_VARIABLE}=all where the runs run.",
            )
    return list(arguments)


def _gpu_words(engine: Engine, gpus: Optional[Sequence[str]]) -> List[str]:
    if engine.kind != "docker":
        return [word for one in (["all"] if gpus is None else gpus) for word in ("--device", f"nvidia.com/gpu={one}")]
    if gpus is None:
        return ["--gpus", "all"]
    # The engine reads this as a line of CSV.
    return ["--gpus", '"device={}"'.format(",".join(gpus))] if gpus else []


def _without(arguments: Sequence[str], name: str) -> List[str]:
    """The arguments without that one and its value."""
    kept: List[str] = []
    is_value = False
    for word in arguments:
        if not is_value and word.split("=", 1)[0] != name:
            kept.append(word)
        is_value = not is_value and word == name
    return kept


def _has(arguments: Sequence[str], *names: str) -> bool:
    return any(word.split("=", 1)[0] in names for word in arguments)


def _mount_text(mount: BoundFolder) -> str:
    fields = ["type=bind", f"source={mount.path}", f"target={mount.path}", *(["readonly"] * mount.is_read_only)]
    # The engine reads this as a line of CSV.
    return ",".join('"{}"'.format(one.replace('"', '""')) if re.search('[",]', one) else one for one in fields)


def _write_variables(path: Path, variables: Dict[str, str]) -> None:
    for name, text in variables.items():
        if "\n" in text:
            raise UserErrorException(f"The variable {name} has more than one line, which a container cannot be given.")
    with open(os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write("".join(f"{name}={text}\n" for name, text in variables.items()))
