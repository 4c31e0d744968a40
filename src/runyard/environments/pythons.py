"""The Python interpreters of this host: where they are and which versions they have."""

import glob
import os
import subprocess
import sys
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from runyard.protocol.record import record

#: An interpreter that does not answer in this time is left alone.
PROBE_TIMEOUT_S = 20.0

_PROBE = (
    "import sys; print('.'.join(map(str, sys.version_info[:3])));"
    "print(getattr(sys, '_base_executable', None) or sys.executable);"
    "print(sys.executable); print(sys.prefix != sys.base_prefix); print(sys.implementation.name)"
)


@record
class Interpreter:
    """A Python of this host."""

    path: str
    #: As (3, 11, 7).
    version: Tuple[int, ...]


def minor_of(interpreter: Interpreter) -> str:
    """Its minor version, as "3.11"."""
    return "{}.{}".format(*interpreter.version[:2])


def running_minor() -> str:
    """The minor version of the Python that this code runs on."""
    return "{}.{}".format(*sys.version_info[:2])


def find_interpreters(candidates: Sequence[str] = ()) -> Tuple[Interpreter, ...]:
    """Every CPython of this host, each minor version's preferred one first.

    Looks at ``candidates``, the interpreter that runs this, the PATH, pyenv's versions and those that uv has fetched.
    Virtual environments count as the interpreter beneath them. Starts each candidate once (15 to 30 ms).
    """
    found: Dict[str, Interpreter] = {}
    for path in _candidates(candidates):
        interpreter = probe(path)
        if interpreter is not None:
            found.setdefault(os.path.realpath(interpreter.path), interpreter)
    return tuple(found.values())


def find_minor(minor: str) -> Optional[Interpreter]:
    """The preferred interpreter of a minor version ("3.11"); None if this host has none."""
    for path in _candidates(()):
        named = os.path.basename(path)[len("python") :]
        if named.count(".") == 1 and named != minor:
            continue
        interpreter = probe(path)
        if interpreter is not None and minor_of(interpreter) == minor:
            return interpreter
    return None


_probed: Dict[str, Optional[Interpreter]] = {}


def probe(path: str) -> Optional[Interpreter]:
    """What the executable at ``path`` is; None if it is no working CPython. Remembered in this process."""
    if path not in _probed:
        _probed[path] = _probe(path)
    return _probed[path]


def _probe(path: str) -> Optional[Interpreter]:
    if not os.access(path, os.X_OK):
        return None
    try:
        # -I keeps the caller's PYTHON* variables and the working folder out of the answer.
        answer = subprocess.run(
            [path, "-I", "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PROBE_TIMEOUT_S
        )
        version, base, executable, is_virtual, implementation = answer.stdout.decode("utf-8").splitlines()
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError, ValueError):
        return None
    if answer.returncode or implementation != "cpython":
        return None
    chosen = base if is_virtual == "True" else executable
    return Interpreter(chosen, tuple(int(part) for part in version.split(".")))


def _candidates(first: Sequence[str]) -> Iterator[str]:
    seen = set()
    for path in _places(first):
        if path not in seen and os.path.exists(path):
            seen.add(path)
            yield path


def _places(first: Sequence[str]) -> Iterator[str]:
    yield from first
    yield sys.executable
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        # A shim answers for whichever version is active, if any; the versions themselves follow below.
        if folder and os.path.basename(folder.rstrip("/")) != "shims":
            yield from _named_pythons(folder)
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for pattern in (os.path.join(pyenv, "versions", "*", "bin"), os.path.join(_uv_pythons(), "*", "bin")):
        for folder in sorted(glob.glob(pattern), reverse=True):
            yield from _named_pythons(folder)


def _named_pythons(folder: str) -> List[str]:
    paths = glob.glob(os.path.join(folder, "python3.[0-9]*"))
    return sorted(path for path in paths if os.path.basename(path)[len("python3.") :].isdigit())


def _uv_pythons() -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
