"""Builds a lock as a virtual environment: by uv, with byte code, and packages from source after the others."""

import os
from contextlib import suppress
from hashlib import sha256
from typing import List, Mapping, Optional, Sequence

from runyard.environments.blame import error_of
from runyard.environments.bytecode import compile_environment
from runyard.environments.layers import Layers
from runyard.environments.pins import requirement_name
from runyard.environments.pythons import find_interpreters, find_minor, minor_of
from runyard.environments.recipes import missing_programs
from runyard.environments.resolve import index_arguments
from runyard.environments.stored_files import local_line
from runyard.environments.task import BuildTask
from runyard.environments.uv import UvResult, dated, run_uv
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import SourceBuild
from runyard.protocol.record import record


def fill(task: BuildTask) -> None:
    """Make the environment in the task's folder; EnvironmentBuildError names the package that failed."""
    lock = task.lock
    task.log(f"Building environment {lock.digest[:12]} with Python {lock.python}; packages: {len(lock.requirements)}.")
    call = _Install(task)
    layers = Layers(task.root_folder, lock.python, lock.options, lock.as_of)
    if not layers.place_skeleton(task.folder):
        interpreter = find_minor(lock.python)
        if interpreter is None:
            here = ", ".join(sorted({minor_of(one) for one in find_interpreters()}))
            raise EnvironmentBuildError(f"The environment needs Python {lock.python}, and this host has {here}.")
        call.make(interpreter.path)
        layers.keep_skeleton(task.folder)
    missing, changed = layers.place(lock.requirements, task.folder)
    if changed:
        call.forget(changed)
    if missing:
        call.install(missing)
    task.log(f"Packages that other environments have too: {len(lock.requirements) - len(missing)}.")
    for source in lock.sources:
        call.build(source)
    if missing or lock.sources:
        store_folder = os.path.join(bytecode_folder(task.root_folder), lock.python)
        site_folder = os.path.join(task.folder, "lib", "python" + lock.python, "site-packages")
        compile_environment(_python_in(task.folder), site_folder, store_folder, task.log, task.timeout_s)
    if missing and not lock.sources:
        layers.keep(missing, task.folder)


def bytecode_folder(root_folder: str) -> str:
    """Where the byte code of every environment is shared."""
    return os.path.join(root_folder, "caches", "bytecode")


@record
class _Install:
    """One build in a temporary folder, by two calls of uv."""

    task: BuildTask

    def make(self, interpreter: str) -> None:
        # Relocatable: its scripts find the interpreter beside them, so that the folder may be renamed when it is whole.
        arguments = ["venv", "--relocatable", "--allow-existing", "--no-python-downloads", "--python", interpreter]
        self._run([*arguments, "--cache-dir", self.task.cache_folder, "--", self.task.folder])

    def forget(self, pins: Sequence[str]) -> None:
        """Have uv fetch packages again whose files somebody has changed: its own copies are the same files."""
        for pin in pins:
            self.task.log(f"{pin} was changed on this disk since it was kept; it is fetched again.")
            self._run(["cache", "clean", "--cache-dir", self.task.cache_folder, requirement_name(pin)])

    def install(self, pins: Sequence[str]) -> None:
        options = [line for line in self.task.lock.options if line != "--pre"]
        arguments = ["pip", "install", "--link-mode", "hardlink", "--no-deps"]
        arguments += self._place()
        lines = [local_line(one, self.task.root_folder) for one in pins]
        self._run_with([*options, *lines], [*arguments, *index_arguments(options)])

    def _run_with(
        self, lines: Sequence[str], arguments: Sequence[str], variables: Optional[Mapping[str, str]] = None
    ) -> None:
        path = os.path.join(self.task.folder, "runyard-requirements.txt")
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
                stream.write("\n".join(lines) + "\n")
            self._run([*arguments, "-r", path], variables)
        finally:
            # It may hold an index's password, and serves only this call. On a full disk it was never made.
            with suppress(FileNotFoundError):
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
        self.task.log(f"Building {name} from its source; this takes minutes, once.")
        options = [line for line in self.task.lock.options if line != "--pre"]
        arguments = ["pip", "install", "--no-deps", "--no-build-isolation", "--no-binary", requirement_name(name)]
        # What is built depends on what it was built with, which uv's own cache of wheels does not look at.
        built_with = _digest([*sorted(self.task.lock.requirements), *map(repr, sorted(source.variables.items()))])
        arguments += ["--config-settings-package", f"{requirement_name(name)}:runyard={built_with}"]
        line = " ".join([name, *(f"--hash={one}" for one in source.hashes)])
        self._run_with([*options, line], [*arguments, *self._place(), *index_arguments(options)], source.variables)

    def _place(self) -> List[str]:
        found = ["--python", _python_in(self.task.folder), "--cache-dir", self.task.cache_folder]
        # Sources are built with the tools of their day: those of today no longer take them.
        return [*found, *dated(self.task.lock.as_of, self.task.lock.requirements)]

    def _run(self, arguments: List[str], variables: Optional[Mapping[str, str]] = None) -> UvResult:
        result = run_uv(
            self.task.uv,
            arguments,
            folder=self.task.folder,
            log=self.task.log,
            timeout_s=self.task.timeout_s,
            variables=variables,
        )
        if result.code:
            raise error_of(result, self.task.lock.python, newest=_unknown, from_conda={})
        return result


def _digest(lines: Sequence[str]) -> str:
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _unknown(name: str) -> Optional[str]:
    """A lock's version existed when it was made; which one is the newest now would not help."""
    return None


def _python_in(folder: str) -> str:
    return os.path.join(folder, "bin", "python")
