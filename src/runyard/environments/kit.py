"""The kit: the immutable folder on a job's PYTHONPATH, with this version's job side and nothing else."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from typing import Iterator, List, Sequence, Tuple

import runyard
from runyard.errors import EnvironmentBuildError
from runyard.protocol.record import record

#: What of the package goes into the kit; each only if this version has it.
PARTS = ("__init__.py", "errors.py", "py.typed", "protocol", "files", "client", "scoring", "sdk", "azureml")

#: Time to compile some 200 small files.
COMPILE_TIMEOUT_S = 120.0

#: The bare name, as the distribution runyard-azureml gives it on the user's machine.
_BARE_NAME = '''"""The bare `azureml` name inside a run: its modules are those of runyard.azureml."""

from runyard.azureml import __path__ as __path__
'''

#: Compiles in the interpreter that will read it. By content and not by time: a copied or unpacked kit stays compiled.
_COMPILE = """
import compileall, py_compile, sys
done = compileall.compile_dir(
    sys.argv[1], quiet=1, force=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
sys.exit(0 if done else 1)
"""


@record
class Kit:
    """A kit on this host."""

    #: <version>-<digest>: the name of its folder, and what a run records.
    version_digest: str
    #: What a job's PYTHONPATH is.
    folder: str


def make_kit(kits_folder: str) -> Kit:
    """The kit of the Runyard that runs this, under ``kits_folder``; made if it is not there. Seen only when whole.

    Reads the package's files (a few milliseconds): the digest is over their names and bytes.
    """
    files = _files()
    version_digest = f"{runyard.__version__}-{_digest(files)}"
    folder = os.path.join(kits_folder, version_digest)
    if not os.path.isdir(folder):
        os.makedirs(kits_folder, exist_ok=True)
        _place(files, folder)
    return Kit(version_digest, folder)


def find_kit(kits_folder: str, version_digest: str) -> Kit:
    """The kit that a run names; EnvironmentBuildError if this host does not have it."""
    folder = os.path.join(kits_folder, version_digest)
    if os.path.basename(folder) != version_digest or not os.path.isdir(folder):
        raise EnvironmentBuildError(f"The kit '{version_digest}' is not on this host.")
    return Kit(version_digest, folder)


def compile_kit(kit: Kit, interpreter: str) -> None:
    """Byte-compile the kit for the Python at ``interpreter``: once for each of its releases, by one process at a time.

    EnvironmentBuildError if that Python cannot read it.
    """
    marker = os.path.join(kit.folder, ".compiled-" + _interpreter_key(interpreter))
    if os.path.exists(marker):
        return
    with _only_one(kit.folder + ".lock"):
        if not os.path.exists(marker):
            _compile(kit, interpreter)
            with open(marker, "w", encoding="ascii"):
                pass


def _compile(kit: Kit, interpreter: str) -> None:
    try:
        result = subprocess.run(
            [interpreter, "-I", "-S", "-c", _COMPILE, kit.folder],
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMPILE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentBuildError(f"The interpreter '{interpreter}' does not run: {error}.") from None
    if result.returncode:
        said = result.stdout.decode("utf-8", "replace").strip()
        raise EnvironmentBuildError(
            f"The interpreter '{interpreter}' cannot compile Runyard's kit; a run needs Python 3.7 or newer.", hint=said
        )


def _interpreter_key(interpreter: str) -> str:
    """Names the program behind a path, so that no process has to be started to know it again."""
    try:
        real = os.path.realpath(interpreter)
        facts = os.stat(real)
    except OSError as error:
        raise EnvironmentBuildError(f"The interpreter '{interpreter}' does not exist: {error.strerror}.") from None
    text = f"{real}\n{facts.st_size}\n{facts.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _files() -> List[Tuple[str, bytes]]:
    """Path inside the kit and content of each of its files, sorted."""
    return sorted([("azureml/__init__.py", _BARE_NAME.encode("utf-8")), *package_files(PARTS)])


def package_files(parts: Sequence[str]) -> List[Tuple[str, bytes]]:
    """Path and content of each file of these parts of the package, sorted; the paths begin with "runyard/"."""
    root = os.path.dirname(os.path.abspath(runyard.__file__))
    files = []
    for part in parts:
        for path in _walk(os.path.join(root, part)):
            with open(path, "rb") as stream:
                files.append(("runyard/" + os.path.relpath(path, root).replace(os.sep, "/"), stream.read()))
    return sorted(files)


def _walk(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
    for parent, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if not name.endswith((".pyc", ".pyo", "~")):
                yield os.path.join(parent, name)


def _digest(files: List[Tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, data in files:
        digest.update(f"{name}\n{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def _place(files: List[Tuple[str, bytes]], folder: str) -> None:
    temporary = tempfile.mkdtemp(prefix=".making-", dir=os.path.dirname(folder))
    try:
        for name, data in files:
            path = os.path.join(temporary, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.write(data)
        os.chmod(temporary, 0o755)
        os.rename(temporary, folder)
    except OSError:
        # Another process was first; its kit has the same bytes.
        if not os.path.isdir(folder):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _only_one(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
