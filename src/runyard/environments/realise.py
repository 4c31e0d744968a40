"""From a lock to an interpreter on this host: built once, by one process, seen only when it is whole."""

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Callable, Collection, Iterator, List, Optional, Union

from runyard.environments.bytecode import forget_unused
from runyard.environments.held import USE, hold_folder
from runyard.environments.layers import forget_unused_layers
from runyard.environments.pack import Pull, fill_from_pack
from runyard.environments.resolve import user_interpreter
from runyard.environments.stored_files import Fetch, bring, stored_of
from runyard.environments.task import BuildTask
from runyard.environments.uv import Log, uv_cache_folder
from runyard.environments.with_uv import bytecode_folder
from runyard.errors import EnvironmentBuildError, StorageFullError
from runyard.files.layout import DISK_FULL
from runyard.protocol.environments import Builder, Lock
from runyard.protocol.record import record

#: TensorFlow's wheels of 600 MB on a slow line, and sources that compile, fit.
BUILD_TIMEOUT_S = 3600.0

#: How often a process that waits for another one's build looks again.
WAIT_STEP_S = 0.05

#: An environment used this recently is never pruned, whatever the disk says.
RECENTLYUSED_S = 3600.0

SECONDS_A_DAY = 86400.0

_MARKER = "runyard-ready"
_IMAGE = "image.json"
_BUILDING = ".building-"
_LEAVING = ".leaving-"
_DIGEST = re.compile(r"^[0-9a-f]{64}$")


@record
class Realised:
    """An interpreter that is ready."""

    #: Path of the Python program.
    interpreter: str
    #: How long it took.
    seconds: float
    #: False: this call built it.
    reused: bool
    #: The container image that the program is in; empty: it is on this host.
    image: str = ""
    #: Minor version of an image's Python, and the image's own PATH.
    python: str = ""
    path: str = ""


def realise(
    lock: Lock,
    root_folder: str,
    *,
    uv: Union[str, Callable[[], str]],
    log: Log,
    timeout_s: float = BUILD_TIMEOUT_S,
    cache_folder: Optional[str] = None,
    fetch: Optional[Fetch] = None,
    pull: Optional[Pull] = None,
) -> Realised:
    """The interpreter of ``lock`` under ``root_folder``, built if this host does not have it yet.

    Blocks; another process that builds the same lock is waited for. An environment counts from its marker on, which
    comes last, so a build that is killed leaves nothing that counts. EnvironmentBuildError names the package that
    failed; StorageFullError: no space. Either way nothing is left behind and the next call tries again. ``fetch``
    gives the bytes of stored files, ``uv`` is a path or finds it where it is needed, and ``pull`` finds the environment
    as another host has built it.
    """
    started = time.monotonic()
    if lock.builder == Builder.USER_MANAGED:
        return Realised(user_interpreter(lock.interpreter_path or "python"), time.monotonic() - started, True)
    folder = environment_folder(lock, root_folder)
    if _is_usable(lock, folder):
        _stamp(folder)
        return _realised(folder, started, True)
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with _single_flight(folder + ".lock", log, timeout_s):
            reused = _is_usable(lock, folder)
            if not reused:
                cache_folder = cache_folder or uv_cache_folder(root_folder)
                task = BuildTask(lock, folder, root_folder, "", cache_folder, log, timeout_s)

                def fill(temporary: str) -> None:
                    aside = replace(task, folder=temporary)
                    if pull is None or not fill_from_pack(aside, pull):
                        bring(stored_of(lock), root_folder, fetch)
                        _fill(replace(aside, uv=uv if isinstance(uv, str) else uv()))

                _build(task, fill)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFullError(
                f"There is no space left in '{root_folder}', where environments are built."
            ) from None
        raise
    return _realised(folder, started, reused)


def is_realised(lock: Lock, root_folder: str) -> bool:
    """Is the interpreter of ``lock`` here already? One small read, well under a millisecond."""
    return lock.builder == Builder.USER_MANAGED or _is_ready(environment_folder(lock, root_folder), lock.digest)


def hold(lock: Lock, root_folder: str) -> Optional[int]:
    """As ``hold_folder``, for the environment of ``lock``; None where its user manages it."""
    return None if lock.builder == Builder.USER_MANAGED else hold_folder(environment_folder(lock, root_folder))


def environment_folder(lock: Lock, root_folder: str) -> str:
    """Where the environment of ``lock`` is, or will be."""
    return os.path.join(root_folder, "envs", lock.digest)


def reap_unfinished(root_folder: str) -> int:
    """Remove what killed builds and prunings left behind; how many. A build that is under way is left alone."""
    removed = 0
    for name in _names(os.path.join(root_folder, "envs")):
        path = os.path.join(root_folder, "envs", name)
        if name.startswith(_LEAVING):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
        elif name.startswith(_BUILDING) or (_DIGEST.match(name) and not _is_marked(path, name)):
            digest = name[len(_BUILDING) :].split("-")[0] if name.startswith(_BUILDING) else name
            with _lock_if_free(os.path.join(root_folder, "envs", digest + ".lock")) as is_ours:
                if is_ours:
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
    return removed


@record
class Built:
    """An environment on this host."""

    digest: str
    #: Minor version, as "3.11".
    python: str
    size_bytes: int
    #: Seconds since 1970.
    used_at: float


def built_environments(root_folder: str) -> List[Built]:
    """What is built and ready under ``root_folder``, the last used first. Looks at every file: seconds."""
    envs = os.path.join(root_folder, "envs")
    found = []
    for name in _names(envs):
        folder = os.path.join(envs, name)
        if _is_ready(folder, name):
            (library,) = _names(os.path.join(folder, "lib"))[:1] or [""]
            found.append(Built(name, library[len("python") :], size_of(folder), _used_at(folder)))
    return sorted(found, key=lambda one: -one.used_at)


def prune(
    root_folder: str,
    keep_days: float,
    max_bytes: int,
    *,
    now: float,
    in_use: Collection[str] = (),
) -> List[str]:
    """Remove environments unused for ``keep_days``, then the longest unused until the rest fits; the digests removed.

    ``now`` is in seconds since 1970; ``in_use`` are digests that live runs hold. An environment used in the last hour
    stays, and so does one that is being built.
    """
    envs = os.path.join(root_folder, "envs")
    ready = [name for name in _names(envs) if os.path.exists(os.path.join(envs, name, _MARKER))]
    used_at = {name: _used_at(os.path.join(envs, name)) for name in ready}
    total_bytes = sum(size_of(os.path.join(envs, name)) for name in ready)
    removed: List[str] = []
    for name in sorted(ready, key=lambda one: used_at[one]):
        unused_s = now - used_at[name]
        if name in in_use or unused_s < RECENTLYUSED_S:
            continue
        if unused_s < keep_days * SECONDS_A_DAY and total_bytes <= max_bytes:
            continue
        size_bytes = size_of(os.path.join(envs, name))
        if _remove(os.path.join(envs, name), used_at[name]):
            removed.append(name)
            total_bytes -= size_bytes
    forget_unused_layers(root_folder)
    forget_unused(bytecode_folder(root_folder))
    return removed


def _build(task: BuildTask, fill: Callable[[str], None]) -> None:
    """Fill a folder aside and rename it; conda's is filled in place, since its files name the folder they lie in."""
    lock, folder, log = task.lock, task.folder, task.log
    _remove_leftovers(folder)
    started = time.monotonic()
    if lock.builder_why:
        log(lock.builder_why)
    is_in_place = lock.builder == Builder.CONDA
    if os.path.lexists(folder):
        _set_aside(folder)
    temporary = folder
    if not is_in_place:
        temporary = tempfile.mkdtemp(prefix=_BUILDING + lock.digest + "-", dir=os.path.dirname(folder))
    try:
        fill(temporary)
        _write_marker(temporary, lock.digest)
        # A run may have a uid of its own.
        os.chmod(temporary, 0o755)
        if not is_in_place:
            os.rename(temporary, folder)
        log(f"Environment {lock.digest[:12]} is ready after {time.monotonic() - started:.1f} s.")
    finally:
        if not is_in_place or not _is_marked(folder, lock.digest):
            shutil.rmtree(temporary, ignore_errors=True)


def _fill(task: BuildTask) -> None:
    if task.lock.builder == Builder.DOCKER:
        from runyard.environments.with_docker import fill
    elif task.lock.builder == Builder.CONDA:
        from runyard.environments.with_conda import fill
    else:
        from runyard.environments.with_uv import fill  # type: ignore[no-redef,unused-ignore]
    fill(task)


def _realised(folder: str, started: float, reused: bool) -> Realised:
    seconds = time.monotonic() - started
    if not os.path.exists(os.path.join(folder, _IMAGE)):
        return Realised(_python_in(folder), seconds, reused)
    from runyard.environments.with_docker import read_image

    image = read_image(folder)
    if image is None:
        raise EnvironmentBuildError(f"The environment in {folder} cannot be read; remove that folder.")
    return Realised(image.interpreter, seconds, reused, image.tag, image.python, image.path)


def _is_usable(lock: Lock, folder: str) -> bool:
    """As _is_ready, and the engine has its image still."""
    if not _is_ready(folder, lock.digest):
        return False
    if lock.builder != Builder.DOCKER:
        return True
    from runyard.environments.with_docker import is_there

    return is_there(folder)


def _python_in(folder: str) -> str:
    return os.path.join(folder, "bin", "python")


def _is_ready(folder: str, digest: str) -> bool:
    # False once the host's Python beneath it has been taken away: then it is built anew.
    return _is_marked(folder, digest) and any(os.path.exists(one) for one in (_python_in(folder), f"{folder}/{_IMAGE}"))


def _is_marked(folder: str, digest: str) -> bool:
    try:
        with open(os.path.join(folder, _MARKER), "rb") as stream:
            return stream.read(256).decode("ascii", "replace").strip() == digest
    except OSError:
        return False


def _write_marker(folder: str, digest: str) -> None:
    with open(os.path.join(folder, _MARKER), "w", encoding="ascii") as stream:
        stream.write(digest + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _stamp(folder: str) -> None:
    """Remember the use. The marker's own time: no second file to fall out of step."""
    try:
        os.utime(os.path.join(folder, _MARKER))
    except OSError:
        pass  # A read-only share of environments still serves.


@contextmanager
def _single_flight(path: str, log: Log, timeout_s: float) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, log, timeout_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, log: Log, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    if _try_lock(descriptor):
        return
    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace") or "unknown"
    log(f"Waiting for process {holder}, which is building this same environment.")
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise EnvironmentBuildError(
                f"Process {holder} has been building this environment for more than {timeout_s:.0f} s; end it."
            )
        time.sleep(WAIT_STEP_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _lock_if_free(path: str) -> Iterator[bool]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: str) -> None:
    """Whoever holds the lock of a digest may remove what an earlier, killed build of it left."""
    parent, digest = os.path.split(folder)
    for name in _names(parent):
        if name.startswith(_BUILDING + digest + "-"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _remove(folder: str, used_at: float) -> bool:
    """Take an environment away by one rename, then delete it; False if it is being built, used by now, or gone."""
    with _lock_if_free(folder + ".lock") as is_ours, _lock_if_free(folder + USE) as is_unused:
        if not is_ours or not is_unused or _used_at(folder) != used_at:
            return False
        _forget_image(folder)
        _set_aside(folder)
        return True


def _used_at(folder: str) -> float:
    """Seconds since 1970; 0 where it is gone."""
    try:
        return os.stat(os.path.join(folder, _MARKER)).st_mtime
    except FileNotFoundError:
        return 0.0


def _forget_image(folder: str) -> None:
    if os.path.exists(os.path.join(folder, _IMAGE)):
        from runyard.environments.with_docker import remove_image

        remove_image(folder)


def _set_aside(folder: str) -> None:
    leaving = tempfile.mkdtemp(prefix=_LEAVING, dir=os.path.dirname(folder))
    os.rename(folder, os.path.join(leaving, "env"))
    shutil.rmtree(leaving, ignore_errors=True)


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def size_of(folder: str) -> int:
    """What removing the folder would free: a file that is also in the cache frees nothing, and counts all the same."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
