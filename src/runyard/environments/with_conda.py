"""Builds with conda, mamba or micromamba, where this host has one and the file needs conda's own packages.

The environment is made where it stays, since conda writes that folder's name into its files.
"""

import json
import os
import shutil
from contextlib import suppress
from typing import Any, Dict, List, Optional, Sequence, Tuple

from runyard.environments.bytecode import compile_environment
from runyard.environments.pins import OLDEST_PYTHON, conda_lines, translate, wanted_minor
from runyard.environments.pythons import running_minor
from runyard.environments.stored_files import local_line
from runyard.environments.task import BuildTask
from runyard.environments.uv import Log, UvResult, dated, run_tool, run_uv
from runyard.environments.with_uv import bytecode_folder
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import Builder, CondaSpec, EnvironmentSpec, Lock, Note

#: Any of these will do, the quickest first.
TOOLS = ("micromamba", "mamba", "conda")
#: In an environment's folder: what conda installed, one URL a line.
EXPLICIT_FILE = "conda-explicit.txt"

_KEPT_PREFIXES = ("CONDA_", "MAMBA_", "CONDARC")
#: Of an environment that is active where Runyard runs, or settings that would change what gets built.
_DROPPED = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER", "CONDA_CHANNELS")


def find_conda() -> Optional[str]:
    """Path of the program; None if this host has none."""
    return next((found for found in map(shutil.which, TOOLS) if found), None)


def resolve_with_conda(
    spec: EnvironmentSpec, tool: str, why: str, notes: Tuple[Note, ...], log: Log, timeout_s: float
) -> Lock:
    """The lock of ``spec``: every conda package by name, version and build; pip's lines stay as the file has them."""
    packages, more = _wish(spec)
    pip = translate(CondaSpec(pip=spec.python.conda.pip))
    for note in (*notes, *more, *pip.notes):
        log(f"{note.subject}: asked {note.asked}, got {note.got or 'nothing'}: {note.why}.")
    log(f"Resolving with {os.path.basename(tool)}; packages asked for: {len(packages)}.")
    command = solve_command(tool, packages, spec.python.conda.channels)
    done = run_tool(command, folder="/", log=log, timeout_s=timeout_s, variables=_variables())
    found = _answer(done)
    links = found.get("actions", {}).get("LINK") if isinstance(found.get("actions"), dict) else None
    if done.code or not links:
        raise EnvironmentBuildError(f"{os.path.basename(tool)} cannot resolve the environment: {_reason(done, found)}")
    pins = tuple(sorted(f"{one['name']}={one['version']}={_build_of(one)}" for one in links))
    python = next((str(one["version"]) for one in links if one["name"] == "python"), "")
    return Lock(
        "",
        Builder.CONDA,
        ".".join(python.split(".")[:2]),
        requirements=tuple(sorted(pip.requirements)),
        options=pip.options,
        as_of=spec.python.as_of,
        notes=(*notes, *more, *pip.notes),
        conda_packages=pins,
        channels=spec.python.conda.channels,
        builder_why=why,
    )


def fill(task: BuildTask) -> None:
    """Make the environment in the task's folder, which is its last place; EnvironmentBuildError quotes the tool."""
    tool, lock = find_conda(), task.lock
    if tool is None:
        raise EnvironmentBuildError("The environment is conda's, and this host has no conda, mamba or micromamba.")
    name = os.path.basename(tool)
    task.log(f"Building environment {lock.digest[:12]} with {name}; packages: {len(lock.conda_packages)}.")
    settings: Dict[str, Any] = {"log": task.log, "timeout_s": task.timeout_s, "variables": _variables()}
    command = create_command(tool, task.folder, lock.conda_packages, lock.channels)
    done = run_tool(command, folder="/", logs_output=True, **settings)
    if done.code:
        raise EnvironmentBuildError(f"{name} cannot build the environment: {_reason(done, {})}")
    listed = run_tool(list_command(tool, task.folder), folder="/", **settings)
    with open(os.path.join(task.folder, EXPLICIT_FILE), "w", encoding="utf-8") as stream:
        stream.write(listed.output)
    if lock.requirements:
        _install_with_pip(task)
    site_folder = os.path.join(task.folder, "lib", "python" + lock.python, "site-packages")
    store_folder = os.path.join(bytecode_folder(task.root_folder), lock.python)
    compile_environment(os.path.join(task.folder, "bin", "python"), site_folder, store_folder, task.log, task.timeout_s)


def solve_command(tool: str, packages: Sequence[str], channels: Sequence[str]) -> List[str]:
    """Asks what would be installed, and installs nothing."""
    # It must name a folder that is not there, and makes none.
    return [tool, "create", "--dry-run", "--json", *_where("/tmp/runyard-dry-run", channels), *packages]


def create_command(tool: str, folder: str, pins: Sequence[str], channels: Sequence[str]) -> List[str]:
    """Installs exactly the pins."""
    return [tool, "create", "--quiet", "--no-deps", *_where(folder, channels), *pins]


def list_command(tool: str, folder: str) -> List[str]:
    """Lists what was installed, by URL."""
    return [tool, "list", "--explicit", "--prefix", folder]


def _where(folder: str, channels: Sequence[str]) -> List[str]:
    words = ["--yes", "--prefix", folder]
    # Without channels in the file, conda's own settings name them.
    words += ["--override-channels"] if channels else []
    for channel in channels:
        words += ["--channel", channel]
    return words


def _wish(spec: EnvironmentSpec) -> Tuple[List[str], Tuple[Note, ...]]:
    """Conda's lines without ours, with a Python that a run can use, and pip where the file needs it."""
    packages, python, notes = conda_lines(spec.python.conda)
    minor = wanted_minor(python)
    if not python:
        return [f"python={running_minor()}", *packages], tuple(notes)
    if minor is None or tuple(int(part) for part in minor.split(".")) >= OLDEST_PYTHON:
        return ["python" + python.replace(" ", ""), *packages], tuple(notes)
    oldest = "{}.{}".format(*OLDEST_PYTHON)
    note = Note("python", python.lstrip("="), oldest, f"{oldest} is the oldest Python that a run can use")
    if spec.python.exact_only:
        raise EnvironmentBuildError(
            f"The environment asks for Python {note.asked} exactly, and there would be {oldest}: {note.why}."
        )
    return [f"python={oldest}", *packages], (*notes, note)


def _install_with_pip(task: BuildTask) -> None:
    """The file's pip section, on top of what conda put there; what is there and fits stays."""
    lock = task.lock
    path = task.folder + ".requirements"
    arguments = ["pip", "install", "--link-mode", "hardlink", "--python", os.path.join(task.folder, "bin", "python")]
    arguments += ["--break-system-packages", "--cache-dir", task.cache_folder]
    arguments += dated(lock.as_of, lock.requirements)
    lines = [*(one for one in lock.options if one != "--pre"), *lock.requirements]
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write("".join(local_line(line, task.root_folder) + "\n" for line in lines))
        done = run_uv(task.uv, [*arguments, "-r", path], folder="/", log=task.log, timeout_s=task.timeout_s)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
    if done.code:
        raise EnvironmentBuildError(f"The pip section cannot be installed: {_reason(done, {})}")


def _answer(done: UvResult) -> Dict[str, Any]:
    try:
        found = json.loads(done.output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(done: UvResult, answer: Dict[str, Any]) -> str:
    """The tool's own sentence, on one line."""
    said = answer.get("message") or answer.get("error") or ""
    if not said and answer.get("solver_problems"):
        said = "; ".join(map(str, answer["solver_problems"]))
    text = str(said) or "\n".join(done.tail) or "it gave no reason"
    return " ".join(text.split())[:1000].rstrip(".") + "."


def _build_of(link: Dict[str, Any]) -> str:
    return str(link.get("build_string") or link.get("build") or "*")


def _variables() -> Dict[str, str]:
    return {name: text for name, text in os.environ.items() if name.startswith(_KEPT_PREFIXES) and name not in _DROPPED}
