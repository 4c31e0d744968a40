"""From a lock to an interpreter on this host: built once, by one process, seen only when it is whole."""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from typing import Collection, Iterator, List, Mapping, Optional

from runyard.environments.blame import error_of
from runyard.environments.bytecode import compile_environment, forget_unused
from runyard.environments.pythons import find_interpreters, find_minor, minor_of
from runyard.environments.recipes import missing_programs
from runyard.environments.resolve import index_arguments, user_interpreter
from runyard.environments.uv import Log, UvResult, run_uv, uv_cache_folder
from runyard.errors import EnvironmentBuildError, StorageFullError
from runyard.files.layout import DISK_FULL
from runyard.protocol.environments import Builder, Lock, SourceBuild
from runyard.protocol.record import record

#: TensorFlow's wheels of 600 MB on a slow line, and sources that compile, fit.
BUILD_TIMEOUT_S = 3600.0

#: How often a process that waits for another one's build looks again.
WAIT_STEP_S = 0.05

#: An environment used this recently is never pruned, whatever the disk says.
RECENTLY_USED_S = 3600.0

SECONDS_A_DAY = 86400.0

_MARKER = "runyard-ready"
_BUILDING = ".building-"
_LEAVING = ".leaving-"


@record
class Realised:
    """An interpreter that is ready."""

    #: Path of the Python program.
    interpreter: str
    #: How long it took.
    seconds: float
    #: False: this call built it.
    reused: bool


def realise(
    lock: Lock,
    root_folder: str,
    *,
    uv: str,
    log: Log,
    timeout_s: float = BUILD_TIMEOUT_S,
    cache_folder: Optional[str] = None,
) -> Realised:
    """The interpreter of ``lock`` under ``root_folder``, built if this host does not have it yet.

    Blocks; another process that builds the same lock is waited for. An environment appears by one rename, so a build
    that is killed leaves nothing that counts. EnvironmentBuildError names the package that failed; StorageFullError:
    no space. Either way nothing is left behind and the next call tries again.
    """
    started = time.monotonic()
    if lock.builder == Builder.USER_MANAGED:
        return Realised(user_interpreter(lock.interpreter_path or "python"), time.monotonic() - started, True)
    folder = environment_folder(lock, root_folder)
    if _is_ready(folder, lock.digest):
        _stamp(folder)
        return Realised(_python_in(folder), time.monotonic() - started, True)
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with _single_flight(folder + ".lock", log, timeout_s):
            reused = _is_ready(folder, lock.digest)
            if not reused:
                _build(lock, root_folder, uv, cache_folder or uv_cache_folder(root_folder), log, timeout_s)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFullError(
                f"There is no space left in '{root_folder}', where environments are built."
            ) from None
        raise
    return Realised(_python_in(folder), time.monotonic() - started, reused)


def is_realised(lock: Lock, root_folder: str) -> bool:
    """Is the interpreter of ``lock`` here already? One small read, well under a millisecond."""
    return lock.builder == Builder.USER_MANAGED or _is_ready(environment_folder(lock, root_folder), lock.digest)


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
        elif name.startswith(_BUILDING):
            final = os.path.join(root_folder, "envs", name[len(_BUILDING) :].split("-")[0])
            with _lock_if_free(final + ".lock") as is_ours:
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
            used_at = os.stat(os.path.join(folder, _MARKER)).st_mtime
            found.append(Built(name, library[len("python") :], _size_bytes(folder), used_at))
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
    used_at = {name: os.stat(os.path.join(envs, name, _MARKER)).st_mtime for name in ready}
    total_bytes = sum(_size_bytes(os.path.join(envs, name)) for name in ready)
    removed: List[str] = []
    for name in sorted(ready, key=lambda one: used_at[one]):
        unused_s = now - used_at[name]
        if name in in_use or unused_s < RECENTLY_USED_S:
            continue
        if unused_s < keep_days * SECONDS_A_DAY and total_bytes <= max_bytes:
            continue
        size_bytes = _size_bytes(os.path.join(envs, name))
        if _remove(os.path.join(envs, name)):
            removed.append(name)
            total_bytes -= size_bytes
    forget_unused(_bytecode_folder(root_folder))
    return removed


def _build(lock: Lock, root_folder: str, uv: str, cache_folder: str, log: Log, timeout_s: float) -> None:
    folder = environment_folder(lock, root_folder)
    interpreter = find_minor(lock.python)
    if interpreter is None:
        here = ", ".join(sorted({minor_of(one) for one in find_interpreters()}))
        raise EnvironmentBuildError(f"The environment needs Python {lock.python}, and this host has {here}.")
    _remove_leftovers(folder)
    temporary = tempfile.mkdtemp(prefix=_BUILDING + lock.digest + "-", dir=os.path.dirname(folder))
    try:
        log(f"Building environment {lock.digest[:12]} with Python {lock.python}; packages: {len(lock.requirements)}.")
        started = time.monotonic()
        call = _Install(lock, temporary, uv, cache_folder, log, timeout_s)
        call.make(interpreter.path)
        if lock.requirements:
            call.install()
        for source in lock.sources:
            call.build(source)
        if lock.requirements or lock.sources:
            _compile(temporary, lock.python, _bytecode_folder(root_folder), log, timeout_s)
        _write_marker(temporary, lock.digest)
        # A run may have a uid of its own.
        os.chmod(temporary, 0o755)
        if os.path.lexists(folder):
            _set_aside(folder)
        os.rename(temporary, folder)
        log(f"Environment {lock.digest[:12]} is ready after {time.monotonic() - started:.1f} s.")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _compile(folder: str, python: str, store_folder: str, log: Log, timeout_s: float) -> None:
    site_folder = os.path.join(folder, "lib", "python" + python, "site-packages")
    compile_environment(_python_in(folder), site_folder, os.path.join(store_folder, python), log, timeout_s)


def _bytecode_folder(root_folder: str) -> str:
    return os.path.join(root_folder, "caches", "bytecode")


@record
class _Install:
    """One build in a temporary folder, by two calls of uv."""

    lock: Lock
    folder: str
    uv: str
    cache_folder: str
    log: Log
    timeout_s: float

    def make(self, interpreter: str) -> None:
        # Relocatable: its scripts find the interpreter beside them, so that the folder may be renamed when it is whole.
        arguments = ["venv", "--relocatable", "--allow-existing", "--no-python-downloads", "--python", interpreter]
        self._run([*arguments, "--cache-dir", self.cache_folder, "--", self.folder])

    def install(self) -> None:
        path = os.path.join(self.folder, "runyard-requirements.txt")
        options = [line for line in self.lock.options if line != "--pre"]
        arguments = ["pip", "install", "--link-mode", "hardlink", "--no-deps"]
        arguments += self._place()
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
                stream.write("\n".join([*options, *self.lock.requirements]) + "\n")
            self._run([*arguments, *index_arguments(options), "-r", path])
        finally:
            # It may hold an index's password, and serves only this call.
            os.unlink(path)

    def build(self, source: SourceBuild) -> None:
        """Build a package whose build must see what is installed; its needs are looked for first."""
        name = source.requirement
        missing = missing_programs(source, os.environ.get("PATH", os.defpath).split(os.pathsep))
        if missing:
            raise EnvironmentBuildError(
                "{} is built from its source, which needs {}, not on this host.".format(name, " and ".join(missing)),
                hint="On Debian: apt install {}".format(" ".join(missing.values())),
            )
        self.log(f"Building {name} from its source; this takes minutes, once.")
        options = [line for line in self.lock.options if line != "--pre"]
        arguments = ["pip", "install", "--no-deps", "--no-build-isolation", "--no-binary", name.split("==")[0]]
        arguments += [*self._place(), *index_arguments(options), *options, "--", name]
        self._run(arguments, source.variables)

    def _place(self) -> List[str]:
        found = ["--python", _python_in(self.folder), "--cache-dir", self.cache_folder]
        # Sources are built with the tools of their day: those of today no longer take them.
        return found if self.lock.as_of is None else [*found, "--exclude-newer", self.lock.as_of]

    def _run(self, arguments: List[str], variables: Optional[Mapping[str, str]] = None) -> UvResult:
        result = run_uv(
            self.uv, arguments, folder=self.folder, log=self.log, timeout_s=self.timeout_s, variables=variables
        )
        if result.code:
            raise error_of(result, self.lock.python, newest=_unknown, from_conda={})
        return result


def _unknown(name: str) -> Optional[str]:
    """A lock's version existed when it was made; which one is the newest now would not help."""
    return None


def _python_in(folder: str) -> str:
    return os.path.join(folder, "bin", "python")


def _is_ready(folder: str, digest: str) -> bool:
    try:
        with open(os.path.join(folder, _MARKER), "rb") as stream:
            is_whole = stream.read(256).decode("ascii", "replace").strip() == digest
    except OSError:
        return False
    # False once the host's Python beneath it has been taken away: then it is built anew.
    return is_whole and os.path.exists(_python_in(folder))


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


def _remove(folder: str) -> bool:
    """Take an environment away by one rename, then delete it; False if it is being built."""
    with _lock_if_free(folder + ".lock") as is_ours:
        if is_ours:
            _set_aside(folder)
        return is_ours


def _set_aside(folder: str) -> None:
    leaving = tempfile.mkdtemp(prefix=_LEAVING, dir=os.path.dirname(folder))
    os.rename(folder, os.path.join(leaving, "env"))
    shutil.rmtree(leaving, ignore_errors=True)


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _size_bytes(folder: str) -> int:
    """What removing the folder would free: a file that is also in the cache frees nothing, and counts all the same."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(parent, name)).st_size
    return total
