"""An environment as asked (EnvironmentSpec) and as found (Lock): every package pinned, and what was changed and why."""

import hashlib
import json
import re
from dataclasses import asdict, field, fields, is_dataclass, replace
from typing import Any, Dict, Optional, Tuple, TypeVar, cast

from runyard.protocol.record import record

T = TypeVar("T")


@record
class CondaSpec:
    """What a conda file asks for, line by line as its author wrote it."""

    name: str = "project_environment"
    channels: Tuple[str, ...] = ()
    #: Conda's own packages, "python=3.8" among them.
    packages: Tuple[str, ...] = ()
    #: Lines for pip: requirements, and options such as "--extra-index-url ...".
    pip: Tuple[str, ...] = ()


@record
class PythonSpec:
    """Which interpreter, and what is in it."""

    #: True: the interpreter is taken as it is and nothing is installed.
    user_managed: bool = False
    #: Only for user_managed: a path, a name on the PATH, or "python" for the one that Runyard itself runs on.
    interpreter_path: str = "python"
    conda: CondaSpec = field(default_factory=CondaSpec)
    #: Resolve as if it were this day (YYYY-MM-DD); None: today, or the day of pins that are old.
    as_of: Optional[str] = None
    #: Refuse to take another Python or other versions than the file names.
    exact_only: bool = False


@record
class RegistrySpec:
    """A private registry of images, and who may fetch from it."""

    address: str = ""
    username: str = ""
    password: str = ""


@record
class DockerSpec:
    """The image and its container; builders without an engine keep it as it is."""

    enabled: bool = False
    base_image: Optional[str] = None
    base_dockerfile: Optional[str] = None
    #: More arguments of the engine's "run".
    arguments: Tuple[str, ...] = ()
    shm_size: Optional[str] = None
    gpu_support: bool = False
    #: v1's workaround for hosts that cannot share folders; kept, and means nothing here.
    without_shared_volumes: bool = False
    registry: Optional[RegistrySpec] = None
    #: A build context that was sent to the server, by the name that it got there.
    build_context: Optional[str] = None
    #: The Dockerfile inside it.
    dockerfile_path: Optional[str] = None


@record
class EnvironmentSpec:
    """An environment as asked."""

    name: str = ""
    version: str = ""
    python: PythonSpec = field(default_factory=PythonSpec)
    docker: DockerSpec = field(default_factory=DockerSpec)
    #: Environment variables of every run that uses it.
    variables: Dict[str, str] = field(default_factory=dict)
    #: Sections of v1 that mean nothing here ("spark", "r"), each as JSON: kept, and given back.
    kept_sections: Dict[str, str] = field(default_factory=dict)


class Builder:
    """Who makes the interpreter of a lock."""

    UV = "uv"
    CONDA = "conda"
    DOCKER = "docker"
    USER_MANAGED = "user_managed"


@record
class Note:
    """One thing that differs from what was asked, and why."""

    subject: str
    asked: str
    #: Empty: it was left out.
    got: str
    why: str


@record
class SourceBuild:
    """A package that is built from its source on the node, after the others are installed."""

    #: Pinned: "horovod==0.19.5".
    requirement: str
    #: Environment variables of the build.
    variables: Dict[str, str] = field(default_factory=dict)
    #: Programs that it needs, each with the Debian package that has it.
    programs: Dict[str, str] = field(default_factory=dict)
    #: Digests that its source must have one of, as "sha256:..."; none: any.
    hashes: Tuple[str, ...] = ()


@record
class ImageSource:
    """What an image is made from, before any package goes in. One of the first three is set."""

    #: With its registry: "registry.example.com/team/image:1".
    base_image: str = ""
    #: A Dockerfile's text.
    dockerfile: str = ""
    #: A stored build context's name, and the Dockerfile inside it.
    context: str = ""
    dockerfile_path: str = ""
    #: Who may fetch it; no part of a lock's digest.
    registry: Optional[RegistrySpec] = None


@record
class Lock:
    """All that a node needs to make the interpreter; equal digests are equal environments."""

    digest: str
    builder: str = Builder.UV
    #: Minor version, as "3.11"; empty where the user manages the interpreter.
    python: str = ""
    interpreter_path: Optional[str] = None
    #: Pinned lines, sorted: "six==1.17.0".
    requirements: Tuple[str, ...] = ()
    #: Where packages come from besides the host's own index: "--extra-index-url ..."; may hold credentials.
    options: Tuple[str, ...] = ()
    as_of: Optional[str] = None
    notes: Tuple[Note, ...] = ()
    #: Built in this order, without isolation, after ``requirements``.
    sources: Tuple[SourceBuild, ...] = ()
    #: For conda: the packages as its solver is asked for them, and the channels.
    conda_packages: Tuple[str, ...] = ()
    channels: Tuple[str, ...] = ()
    #: For docker.
    image: Optional[ImageSource] = None
    #: Which builder was chosen, and why: one sentence.
    builder_why: str = ""


@record
class Environment:
    """A registered environment."""

    name: str
    version: str
    workspace: str
    spec: EnvironmentSpec
    created_by: str
    created_at: int
    is_curated: bool = False


@record
class EnvironmentBody:
    """An environment to register."""

    spec: EnvironmentSpec


@record
class StoredFile:
    """A file that a workspace keeps for its environments: a private wheel, or a build context."""

    workspace: str
    #: Of its bytes, 64 hex digits.
    sha256: str
    name: str


@record
class EnvironmentPack:
    """A built environment as one content (environments/pack.py)."""

    digest: str
    size_bytes: int


class BuildStatus:
    """How far an environment is; v1's words for the build of its image."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@record
class EnvironmentBuild:
    """An environment on the server's machine."""

    status: str
    #: What the build has said so far; the end of it, where it is long.
    log: str = ""
    error: str = ""
    #: Once it has succeeded.
    lock: Optional[Lock] = None


#: How a password begins that only the server can read.
SEALED = "sealed:"


def has_sealed(text: str) -> bool:
    """Does a password stand in ``text`` that only the server can read?"""
    return "://" + SEALED in text


def spec_digest(spec: EnvironmentSpec) -> str:
    """Key of a spec's content, 64 hex digits: everything but its name and version, and what means nothing here."""
    docker = replace(spec.docker, registry=_without_password(spec.docker.registry))
    return _digest(asdict(replace(spec, name="", version="", kept_sections={}, docker=docker)))


def lock_digest(lock: Lock) -> str:
    """Key of what a lock builds, 64 hex digits: what gets installed, and neither its notes nor its day."""
    image = None if lock.image is None else replace(lock.image, registry=None)
    return _digest(asdict(replace(lock, digest="", notes=(), as_of=None, builder_why="", image=image)))


def _without_password(registry: Optional[RegistrySpec]) -> Optional[RegistrySpec]:
    return None if registry is None else replace(registry, password="")


def without_credentials(text: str) -> str:
    """``text`` with '***' for what lets its holder in: user and password of every URL, signatures, conda's tokens."""
    return _SIGNATURE.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


def without_passwords(value: T) -> T:
    """A spec or a lock to be shown: every password in it replaced by '***'."""
    return cast(T, _masked(value))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, tuple):
        return tuple(map(_masked, value))
    if isinstance(value, RegistrySpec):
        return replace(value, password="***" * bool(value.password))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _masked(getattr(value, one.name)) for one in fields(value)})
    return value


#: What stands before the last '@' of a URL's authority; and "user:password@" even where the password has a bare '/'.
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)(?:[^\s/?#'\"<>`]*|[^\s/?#:@]+:(?!\d+[/?#])[^\s@]*)@")
#: In a query, as Azure's and S3's signed addresses have it; and in the path of a private conda channel.
_SIGNATURE = re.compile(
    r"(://[^\s/?#]*(?:/[^\s/?#]+)?/t/(?=[^\s/?#]+/)|[?&](?:sig|token|[a-z_\-]*signature|[a-z_\-]*token|[a-z_\-]*key|password)=)[^\s&#/'\"]+",
    re.IGNORECASE,
)


def _digest(value: Any) -> str:
    text = json.dumps(_said(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _said(value: Any) -> Any:
    """``value`` without what is empty, so that a field added later (with an empty default) changes no digest."""
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items() if item not in (None, "", (), {}, False)}
    return [_said(item) for item in value] if isinstance(value, tuple) else value
