"""Builds a lock as a container image: its base is fetched or built, then Python and the packages go in as layers."""

import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.parse
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence

from runyard.environments.engine import (
    Engine,
    ask,
    call,
    engine_environment,
    find_engine,
    get_engine,
    has_image,
    pull,
    remove,
)
from runyard.environments.image import (
    TOOLS,
    BuildFiles,
    base_tag,
    build_arguments,
    build_variables,
    described,
    dockerfile_of,
    image_tag,
    interpreter_in,
)
from runyard.environments.pins import OLDEST_PYTHON, requirement_name
from runyard.environments.stored_files import is_stored, stored_path
from runyard.environments.task import BuildTask
from runyard.errors import EnvironmentBuildError, StorageFullError
from runyard.files.inside import join_inside
from runyard.protocol.environments import ImageSource, Lock, without_credentials
from runyard.protocol.record import record
from runyard.protocol.trees import check_path

#: In an environment's folder: which image it is.
IMAGE_FILE = "image.json"
#: A build context larger than this is no folder of sources, bytes.
MAX_CONTEXT_BYTES = 1 << 30
#: Asking an image for its Python, on a busy host, seconds.
PROBE_TIMEOUT_S = 120.0

_PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE | re.MULTILINE)
_FULL = r"no space left on device|disk quota exceeded"


@record
class Image:
    """A built image, as its environment's folder remembers it."""

    tag: str
    #: The program to start inside it.
    interpreter: str
    #: Its minor version.
    python: str
    #: Where programs are looked for inside it.
    path: str = ""


def fill(task: BuildTask) -> None:
    """Build the image and note it in the task's folder; EnvironmentBuildError quotes the engine's last words."""
    lock = task.lock
    source = lock.image or ImageSource()
    engine = get_engine(f"The environment is made of {described(source)}")
    task.log(f"Building an image with {engine.kind} {engine.version}; it starts from {described(source)}.")
    for one in lock.sources:
        if one.hashes:
            task.log(f"{one.requirement} is built inside the image, where its digests are not checked.")
    base = _base(engine, task, source)
    with tempfile.TemporaryDirectory(prefix="runyard-image-") as folder:
        files = _gather(task, os.path.join(folder, "runyard"))
        if files.has_secret and not engine.can_mount:
            raise EnvironmentBuildError(
                "The packages come from an index with a password, which Docker's old builder would leave in the image.",
                hint="Install docker-buildx; or let the password stand in the machine's own uv or pip settings.",
            )
        _write(os.path.join(folder, "Dockerfile"), dockerfile_of(lock, base, files, engine))
        secret = os.path.join(folder, "requirements.txt")
        # Where the engine can mount, the lines are a secret of the build; else they lie in its context.
        _write(secret if engine.can_mount else os.path.join(folder, "runyard", "requirements.txt"), files.requirements)
        with open(os.path.join(folder, ".dockerignore"), "w", encoding="ascii") as stream:
            stream.write("requirements.txt\nDockerfile\n")
        _build(
            engine, task, image_tag(lock), folder, os.path.join(folder, "Dockerfile"), secret if lock.python else None
        )
    image = Image(image_tag(lock), interpreter_in(lock), _python_of(engine, lock), _path_of(engine, lock))
    with open(os.path.join(task.folder, IMAGE_FILE), "w", encoding="utf-8") as stream:
        json.dump(vars(image), stream)


def read_image(folder: str) -> Optional[Image]:
    """The image of an environment's folder; None if it is none."""
    try:
        with open(os.path.join(folder, IMAGE_FILE), encoding="utf-8") as stream:
            found = json.load(stream)
        return Image(str(found["tag"]), str(found["interpreter"]), str(found["python"]), str(found["path"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_there(folder: str) -> bool:
    """Has the engine still got the image? Others may remove images."""
    image, engine = read_image(folder), find_engine()
    return image is not None and engine is not None and has_image(engine, image.tag)


def remove_image(folder: str) -> None:
    """Remove the image of an environment that goes; one that is in use stays with the engine."""
    image = read_image(folder)
    engine = None if image is None else find_engine()
    if image is not None and engine is not None:
        remove(engine, ["image", "rm", image.tag], PROBE_TIMEOUT_S)


def _base(engine: Engine, task: BuildTask, source: ImageSource) -> str:
    """The name of the image to start from, here by now."""
    if source.base_image:
        name = source.base_image
        if not has_image(engine, name):
            name = _docker_hub(engine, name)
            if not has_image(engine, name):
                pull(engine, name, source.registry, task.log)
        return name
    tag = base_tag(task.lock)
    with tempfile.TemporaryDirectory(prefix="runyard-base-") as folder:
        if source.context:
            _unpack(stored_path(source.context, task.root_folder), Path(folder))
            dockerfile = str(join_inside(Path(folder), check_path(source.dockerfile_path)))
            if not os.path.isfile(dockerfile):
                raise EnvironmentBuildError(f"The build context holds no file {source.dockerfile_path!r}.")
        else:
            dockerfile = os.path.join(folder, "Dockerfile")
            _write(dockerfile, source.dockerfile)
            _fetch_private(engine, task, source)
        _build(engine, task, tag, folder, dockerfile, None)
    return tag


def _fetch_private(engine: Engine, task: BuildTask, source: ImageSource) -> None:
    """What a Dockerfile takes from its private registry: the build itself is not logged in."""
    address = "" if source.registry is None else source.registry.address.split("://")[-1].strip("/")
    for name in _FROM.findall(source.dockerfile):
        if address and name.startswith(address + "/") and not has_image(engine, name):
            pull(engine, name, source.registry, task.log)


def _docker_hub(engine: Engine, name: str) -> str:
    """Podman asks which registry a short name means; v1 meant Docker Hub."""
    first = name.split("/", 1)[0]
    is_full = "/" in name and ("." in first or ":" in first or first == "localhost")
    if engine.kind != "podman" or is_full:
        return name
    return "docker.io/" + (name if "/" in name else "library/" + name)


def _build(
    engine: Engine, task: BuildTask, tag: str, context: str, dockerfile: str, requirements: Optional[str]
) -> None:
    arguments = build_arguments(engine, tag, context, dockerfile, requirements)
    done = call(engine, arguments, log=task.log, timeout_s=task.timeout_s, variables=build_variables(engine))
    if not done.code:
        return
    text = "\n".join(done.tail)
    if re.search(_FULL, text, re.IGNORECASE):
        raise StorageFullError(f"There is no space left where {engine.kind} keeps its images; make room there.")
    reason = next((line for line in reversed(done.tail) if line.strip()), "it gave no reason")
    raise EnvironmentBuildError(
        f"The image cannot be built by {engine.kind}: {reason.strip().rstrip('.')}.",
        hint=f"The last lines of {engine.kind}:\n{text}",
    )


def _python_of(engine: Engine, lock: Lock) -> str:
    """The minor version of the image's Python; a run needs one that it can start, 3.7 or newer."""
    program, tag = interpreter_in(lock), image_tag(lock)
    said = ask(
        engine, ["run", "--rm", "--network", "none", "--entrypoint", program, tag, "-c", _PROBE], PROBE_TIMEOUT_S
    )
    minor = (said or "").strip().splitlines()[-1:]
    if not minor or not re.match(r"^\d+\.\d+$", minor[0]):
        raise EnvironmentBuildError(
            f"The image has no Python that starts as '{program}'.",
            hint="Set python.interpreter_path to the one inside it, or list packages: then a Python is put in.",
        )
    if tuple(int(part) for part in minor[0].split(".")) < OLDEST_PYTHON:
        raise EnvironmentBuildError(f"The image's '{program}' is Python {minor[0]}; a run needs 3.7 or newer.")
    return minor[0]


def _path_of(engine: Engine, lock: Lock) -> str:
    said = ask(engine, ["image", "inspect", "--format", "{{json .Config.Env}}", image_tag(lock)])
    lines = json.loads(said or "null") or []
    return next((one[len("PATH=") :] for one in lines if one.startswith("PATH=")), os.defpath)


def _gather(task: BuildTask, folder: str) -> BuildFiles:
    """Put what the build needs into ``folder``: uv, wheels of this host, certificates; and say what it installs."""
    os.makedirs(os.path.join(folder, "wheels"))
    if not task.lock.python:
        return BuildFiles("")
    _link_or_copy(task.uv, os.path.join(folder, "uv"))
    settings = engine_environment(os.environ)
    options = [*task.lock.options, *_host_options(settings, task.lock.options)]
    lines = [_placed_option(one, task.lock, folder) for one in options if one != "--pre"]
    lines += [_placed_requirement(one, task.root_folder, folder) for one in task.lock.requirements]
    certificates = settings.get("SSL_CERT_FILE", "")
    if os.path.isfile(certificates):
        shutil.copyfile(certificates, os.path.join(folder, "certificates.pem"))
    text = "".join(line + "\n" for line in lines)
    return BuildFiles(text, without_credentials(text) != text, os.path.isfile(certificates))


def _host_options(settings: Dict[str, str], own: Sequence[str]) -> Iterator[str]:
    """This host's own indexes as lines: uv inside the image does not see its settings."""
    has_index = any(re.match(r"-i\b|--index-url|--no-index", one) for one in own)
    main = settings.get("UV_DEFAULT_INDEX") or settings.get("UV_INDEX_URL")
    if main and not has_index:
        yield f"--index-url {main.split('=', 1)[-1] if re.match(r'[A-Za-z0-9_-]+=', main) else main}"
    for one in (settings.get("UV_INDEX") or settings.get("UV_EXTRA_INDEX_URL") or "").split():
        yield "--extra-index-url {}".format(one.split("=", 1)[-1] if re.match(r"[A-Za-z0-9_-]+=", one) else one)
    for one in re.split(r"[\s,]+", settings.get("UV_FIND_LINKS") or ""):
        if one:
            yield f"--find-links {one}"


def _placed_option(option: str, lock: Lock, folder: str) -> str:
    """A folder of wheels on this host goes along: those of the lock's packages."""
    found = re.match(r"^(?:--find-links|-f)[\s=]+(\S+)$", option)
    place = "" if found is None else _local_path(found.group(1))
    if not place or not os.path.isdir(place):
        return option
    names = {requirement_name(one).replace("-", "_") for one in lock.requirements}
    for name in os.listdir(place):
        if re.sub(r"[-_.]+", "_", name.split("-")[0]).lower() in names:
            _link_or_copy(os.path.join(place, name), os.path.join(folder, "wheels", name))
    return f"--find-links {TOOLS}/wheels"


def _placed_requirement(line: str, root_folder: str, folder: str) -> str:
    found = re.match(r"^(.*@\s*|)((?:file|runyard):\S+)$", line)
    if found is None:
        return line
    place = found.group(2)
    path = stored_path(place, root_folder) if is_stored(place) else _local_path(place)
    name = os.path.basename(path)
    _link_or_copy(path, os.path.join(folder, "wheels", name))
    return f"{found.group(1)}file://{TOOLS}/wheels/{urllib.parse.quote(name)}"


def _local_path(place: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(place).path) if place.startswith("file:") else place


def _unpack(archive: str, folder: Path) -> None:
    """A stored build context: plain files and folders, none of which leads out of ``folder``."""
    left_bytes = MAX_CONTEXT_BYTES
    with tarfile.open(archive, "r:*") as members:
        for member in members:
            left_bytes -= member.size
            if left_bytes < 0:
                raise EnvironmentBuildError(f"The build context is larger than {MAX_CONTEXT_BYTES} bytes.")
            target = join_inside(folder, check_path(member.name))
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = members.extractfile(member) if member.isreg() else None
            if content is None:
                raise EnvironmentBuildError(f"The build context holds {member.name!r}, which is no plain file.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(str(target), "xb") as stream:
                shutil.copyfileobj(content, stream)
            os.chmod(str(target), 0o755 if member.mode & 0o111 else 0o644)


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def _link_or_copy(source: str, target: str) -> None:
    if os.path.exists(target):
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
