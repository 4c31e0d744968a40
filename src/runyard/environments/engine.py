"""The container engine of this host: Docker or Podman, as a subprocess; whether one answers, and what it can do."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from runyard.environments.uv import Log, UvResult, run_tool, tool_environment
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import RegistrySpec
from runyard.protocol.record import record

#: Names the engine's program: "docker", "podman" or a path; "none": there is none, whatever is installed.
ENGINE_VARIABLE = "RUNYARD_ENGINE"
#: Looked for in this order where nothing is named.
ENGINES = ("docker", "podman")
#: An engine that does not answer in this time, on a busy host, is none, seconds.
ANSWER_TIMEOUT_S = 60.0
#: Fetching a large base image on a slow line fits, seconds.
PULL_TIMEOUT_S = 3600.0

#: What an engine's client reads of its environment, besides what every tool gets.
_PREFIXES = ("DOCKER_", "CONTAINER", "PODMAN_", "BUILDAH_", "STORAGE_", "REGISTRY_", "XDG_", "BUILDKIT_", "BUILDX_")


@record
class Engine:
    """A container engine that answers."""

    program: str
    #: docker or podman: whose flags the program takes.
    kind: str
    version: str = ""
    #: Does it run without root's rights? Then its users are other ones than the host's.
    is_rootless: bool = False
    #: Can a build mount secrets and folders, so that they stay out of the image?
    can_mount: bool = True
    #: Can its containers have this host's NVIDIA GPUs?
    has_gpus: bool = False


def find_engine() -> Optional[Engine]:
    """The engine of this host, if one answers. Asks it each time (30 to 500 ms): engines come and go."""
    wanted = os.environ.get(ENGINE_VARIABLE, "").strip()
    if wanted == "none":
        return None
    for name in (wanted,) if wanted else ENGINES:
        program = shutil.which(name)
        found = None if program is None else _asked(program)
        if found is not None:
            return found
    return None


def get_engine(what_for: str) -> Engine:
    """The engine; EnvironmentBuildError begins with ``what_for`` ("The run is in an image") if none answers."""
    engine = find_engine()
    if engine is None:
        raise EnvironmentBuildError(
            f"{what_for}, and no container engine answers on this host.",
            hint="Start Docker or install Podman; or list the packages in a conda file, which needs neither.",
        )
    return engine


def engine_environment(source: Mapping[str, str]) -> Dict[str, str]:
    """Of ``source``, what an engine's client needs."""
    more = {name: text for name, text in source.items() if name.startswith(_PREFIXES)}
    return {**tool_environment(source), **more}


def matters_to_engine(name: str) -> bool:
    """Would an engine's client itself heed that variable, were it among its own?"""
    return name.startswith((*_PREFIXES, "LD_")) or bool(tool_environment({name: "x"}))


def ask(engine: Engine, arguments: Sequence[str], timeout_s: float = ANSWER_TIMEOUT_S) -> Optional[str]:
    """What the engine prints for a question; None where it says no.

    EnvironmentBuildError if it says nothing in time: silence is no answer, such as "there is no such image".
    """
    try:
        return _output([engine.program, *arguments], timeout_s)
    except subprocess.TimeoutExpired:
        shown = " ".join((engine.kind, *arguments[:2]))
        raise EnvironmentBuildError(
            f"'{shown}' has not answered for {timeout_s:.0f} s.",
            hint=f"Look whether {engine.kind} is stuck or its host overloaded, and submit again.",
        ) from None


def remove(engine: Engine, arguments: Sequence[str], timeout_s: float) -> None:
    """Have the engine remove something; what cannot be removed in time stays with it."""
    with suppress(EnvironmentBuildError):
        ask(engine, arguments, timeout_s)


def call(
    engine: Engine,
    arguments: Sequence[str],
    *,
    log: Log,
    timeout_s: float,
    variables: Optional[Mapping[str, str]] = None,
) -> UvResult:
    """Have the engine do something; all that it says goes to ``log`` as it comes."""
    settings = {**engine_environment(os.environ), **(variables or {})}
    command = [engine.program, *arguments]
    return run_tool(command, folder="/", log=log, timeout_s=timeout_s, variables=settings, logs_output=True)


def has_image(engine: Engine, tag: str) -> bool:
    """Is an image of that name on this host?"""
    return ask(engine, ["image", "inspect", "--format", "{{.Id}}", tag]) is not None


def pull(engine: Engine, image: str, registry: Optional[RegistrySpec], log: Log) -> None:
    """Fetch an image; EnvironmentBuildError quotes the engine. A registry's password goes through a pipe."""
    with _logged_in(engine, registry) as variables:
        log(f"Fetching the image {image}.")
        done = call(engine, ["pull", "--quiet", image], log=log, timeout_s=PULL_TIMEOUT_S, variables=variables)
    if done.code:
        raise EnvironmentBuildError(
            f"The image {image} cannot be fetched: {last_line(done)}",
            hint="Check its name; for a private registry, give docker.base_image_registry.",
        )


def last_line(done: UvResult) -> str:
    """The last thing that a tool said, with a full stop."""
    lines = [line.strip() for line in (*done.tail, *done.output.splitlines()) if line.strip()]
    return (lines[-1] if lines else "it gave no reason").rstrip(".") + "."


@contextmanager
def _logged_in(engine: Engine, registry: Optional[RegistrySpec]) -> Iterator[Dict[str, str]]:
    """Variables with which the engine may fetch; what it was told is forgotten afterwards."""
    if registry is None or not registry.username:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="runyard-registry-") as folder:
        variables = _private_login(engine, folder)
        login = login_command(engine, registry)
        done = subprocess.run(
            login,
            input=registry.password.encode("utf-8"),
            env={**engine_environment(os.environ), **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PULL_TIMEOUT_S,
        )
        if done.returncode:
            raise EnvironmentBuildError(
                f"The registry '{registry.address}' refuses the login of '{registry.username}'.",
                hint="Check username and password of docker.base_image_registry.",
            )
        yield variables


def login_command(engine: Engine, registry: RegistrySpec) -> List[str]:
    """The password is read from standard input: a command line is seen by everyone on a host."""
    return [engine.program, "login", "--username", registry.username, "--password-stdin", registry.address]


def _private_login(engine: Engine, folder: str) -> Dict[str, str]:
    if engine.kind == "podman":
        return {"REGISTRY_AUTH_FILE": os.path.join(folder, "auth.json")}
    # Its own folder of settings hides the user's, where the address of the engine may stand.
    host = os.environ.get("DOCKER_HOST") or ask(
        engine, ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    )
    return {"DOCKER_CONFIG": folder, **({"DOCKER_HOST": host.strip()} if host else {})}


def _asked(program: str) -> Optional[Engine]:
    """The engine behind a program; podman also answers to the name docker."""
    try:
        facts = json.loads(_output([program, "info", "--format", "{{json .}}"], ANSWER_TIMEOUT_S) or "")
        if not isinstance(facts, dict):
            return None
        return _podman(program, facts) if "host" in facts else _docker(program, facts)
    except (ValueError, subprocess.TimeoutExpired):
        return None


def _docker(program: str, facts: Dict[str, object]) -> Optional[Engine]:
    version = facts.get("ServerVersion")
    if not version:
        return None  # The client is there, and no engine behind it.
    options, runtimes = str(facts.get("SecurityOptions")), facts.get("Runtimes") or {}
    return Engine(
        program,
        "docker",
        str(version),
        is_rootless="name=rootless" in options,
        can_mount=_output([program, "buildx", "version"], ANSWER_TIMEOUT_S) is not None,
        has_gpus=has_gpu() and "nvidia" in str(runtimes),
    )


def _podman(program: str, facts: Dict[str, object]) -> Engine:
    host = facts.get("host")
    security = host.get("security") if isinstance(host, dict) else None
    version = facts.get("version")
    return Engine(
        program,
        "podman",
        str(version.get("Version", "")) if isinstance(version, dict) else "",
        is_rootless=bool(security.get("rootless")) if isinstance(security, dict) else False,
        has_gpus=has_gpu() and any(os.path.exists(one) for one in ("/etc/cdi/nvidia.yaml", "/var/run/cdi/nvidia.yaml")),
    )


def has_gpu() -> bool:
    """Has this host an NVIDIA driver that is loaded?"""
    return os.path.exists("/dev/nvidiactl")


def _output(command: Sequence[str], timeout_s: float) -> Optional[str]:
    try:
        done = subprocess.run(
            command,
            env=engine_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except OSError:
        return None
    return None if done.returncode else done.stdout.decode("utf-8", "replace")
