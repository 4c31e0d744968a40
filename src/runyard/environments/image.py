"""An environment as an image: its Dockerfile, the engine's arguments. Pure; with_docker.py does it."""

import json
import os
import re
from typing import Dict, List, Optional, Sequence

from runyard.environments.engine import Engine
from runyard.environments.pins import requirement_name
from runyard.environments.uv import dated
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import DockerSpec, ImageSource, Lock, SourceBuild
from runyard.protocol.record import record

#: Where the images lie that v1 started from by itself: an operating system, MPI and CUDA.
OWN_IMAGES = "mcr.microsoft.com/azureml/"

#: Registry, name, tag and digest.
_IMAGE_NAME = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.\-]*(:[0-9]+)?/)?[a-z0-9]+([._\-/]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.\-]*)?(@sha256:[0-9a-f]{64})?"
)

#: Inside a build, where our files are; nothing of it is left where the engine can mount.
TOOLS = "/opt/runyard"


@record
class BuildFiles:
    """What a build may use besides its Dockerfile, as far as this environment has it."""

    #: Options and pinned lines; may hold an index's password.
    requirements: str
    #: Do they hold one?
    has_secret: bool = False
    #: A file of certificates that the index's is checked against.
    has_certificates: bool = False


def has_own_image(docker: DockerSpec) -> bool:
    """Does it name an image of its author's? v1 set its own in every environment, wanted or not."""
    image = docker.base_image or ""
    return bool(docker.base_dockerfile or docker.build_context or (image and not image.startswith(OWN_IMAGES)))


def image_source(docker: DockerSpec) -> ImageSource:
    """What the image is made from."""
    if docker.build_context:
        return ImageSource(context=docker.build_context, dockerfile_path=docker.dockerfile_path or "Dockerfile")
    if docker.base_dockerfile:
        return ImageSource(dockerfile=docker.base_dockerfile, registry=docker.registry)
    return ImageSource(base_image=_checked_name(_full_name(docker)), registry=docker.registry)


def described(source: ImageSource) -> str:
    """In a sentence: "the image ubuntu:20.04"."""
    return f"the image {source.base_image}" if source.base_image else "a Dockerfile"


def _full_name(docker: DockerSpec) -> str:
    image, address = docker.base_image or "", docker.registry.address if docker.registry else ""
    address = address.split("://")[-1].strip("/")
    return image if not address or image.startswith(address + "/") else f"{address}/{image}"


def _checked_name(name: str) -> str:
    """Refuse what an engine would take for an option, a line of a Dockerfile or a file of this host."""
    if not _IMAGE_NAME.fullmatch(name):
        raise EnvironmentBuildError(
            f"docker.base_image is {name[:120]!r}, which is no image's name.",
            hint="Write it as registry/name:tag; for a Dockerfile, set docker.base_dockerfile.",
        )
    return name


def image_tag(lock: Lock) -> str:
    """The name of a lock's image: equal contents have equal names. With a registry part, lest one is searched for."""
    return f"localhost/runyard/env:{lock.digest[:32]}"


def base_tag(lock: Lock) -> str:
    """The name of the image that its Dockerfile makes, before the packages go in."""
    return f"localhost/runyard/base:{lock.digest[:32]}"


def prefix_of(lock: Lock) -> str:
    """Where the packages are inside the image; v1 had them below the same folder."""
    return "/azureml-envs/" + lock.digest[:32]


def interpreter_in(lock: Lock) -> str:
    """The Python to start inside the image."""
    return prefix_of(lock) + "/bin/python" if lock.python else lock.interpreter_path or "python"


def dockerfile_of(lock: Lock, base: str, files: BuildFiles, engine: Engine) -> str:
    """The layers from rare to frequent change: base, Python, packages, what is compiled; nothing of the user's.

    Programs are named by lists of words, so that the image needs no shell. Where the engine can mount, neither our
    tools nor an index's password become part of any layer; the lock's digest stands in for them in its cache's keys.
    """
    lines = [f"FROM {base}", f"LABEL runyard.lock={lock.digest}"]
    if not lock.python:
        return "\n".join(lines) + "\n"
    mounts = ""
    if engine.can_mount:
        mounts = f"--mount=type=bind,source=runyard,target={TOOLS} "
    else:
        lines.append(f"COPY runyard {TOOLS}")
    lines.append("USER 0")
    lines += _arguments(lock, files)
    uv, python = f"{TOOLS}/uv", prefix_of(lock) + "/bin/python"
    lines.append(_run(mounts, uv, "venv", "--no-cache", "--python", lock.python, prefix_of(lock)))
    secret = f"--mount=type=secret,id=requirements,target={TOOLS}-requirements.txt " if engine.can_mount else ""
    requirements = f"{TOOLS}-requirements.txt" if engine.can_mount else f"{TOOLS}/requirements.txt"
    common = ["pip", "install", "--no-cache", "--python", python, "--no-deps", "--compile-bytecode"]
    common += dated(lock.as_of, lock.requirements)
    common += _index_arguments(lock.options)
    if lock.requirements:
        lines.append(_run(mounts + secret, uv, *common, "-r", requirements))
    for source in lock.sources:
        lines += _source_lines(source, mounts + secret, [uv, *common], requirements)
    lines.append(f"ENV PATH={prefix_of(lock)}/bin:$PATH VIRTUAL_ENV={prefix_of(lock)}")
    return "\n".join(lines) + "\n"


def _arguments(lock: Lock, files: BuildFiles) -> List[str]:
    """Of the build alone, and part of the keys of its cache."""
    found = [f"ARG RUNYARD_LOCK={lock.digest}"]
    if files.has_certificates:
        found.append(f"ARG SSL_CERT_FILE={TOOLS}/certificates.pem")
    return found


def _source_lines(source: SourceBuild, mounts: str, install: Sequence[str], requirements: str) -> List[str]:
    found = [f"ARG {name}={text}" for name, text in sorted(source.variables.items())]
    name = requirement_name(source.requirement)
    # The file names the index; its pins are there already.
    words = [*install, "--no-build-isolation", "--no-binary", name, "-r", requirements, source.requirement]
    return [*found, _run(mounts, *words)]


def _index_arguments(options: Sequence[str]) -> List[str]:
    has_index = any(one.startswith(("-i", "--index-url", "--extra-index-url")) for one in options)
    return ["--index-strategy", "unsafe-best-match"] if has_index else []


def _run(mounts: str, *words: str) -> str:
    return f"RUN {mounts}{json.dumps(list(words))}"


def build_arguments(
    engine: Engine, tag: str, context: str, dockerfile: str, requirements: Optional[str] = None
) -> List[str]:
    """The engine's words for a build; its network is the host's, where indexes of this machine are reached."""
    words = ["build", "--network", "host", "--tag", tag, "--file", dockerfile]
    if requirements is not None and engine.can_mount:
        words += ["--secret", f"id=requirements,src={requirements}"]
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        found = next((one for one in (name, name.upper()) if os.environ.get(one)), None)
        # The name alone: the engine takes the value from its own environment, and keeps it out of the image.
        words += ["--build-arg", found] if found else []
    return [*words, context]


def build_variables(engine: Engine) -> Dict[str, str]:
    """What the engine's client must be told besides: Docker without its newer builder has an older one."""
    return {} if engine.kind != "docker" or engine.can_mount else {"DOCKER_BUILDKIT": "0"}
