"""Building an environment ahead of a run: on the server's machine, or here."""

import sys
import time
from typing import Any, Dict, Iterator

from runyard.client.home import home_folder
from runyard.errors import EnvironmentBuildError, UserErrorException
from runyard.protocol.environments import (
    BuildStatus,
    EnvironmentBody,
    EnvironmentBuild,
    EnvironmentSpec,
    Lock,
    StoredFile,
    without_credentials,
)
from runyard.sdk.session import current_server

#: Between two looks at a build, seconds.
LOOK_S = 0.3


class EnvironmentBuildDetails:
    """v1's ImageBuildDetails: a build that goes on, or has ended."""

    def __init__(self, workspace: Any, spec: EnvironmentSpec, found: EnvironmentBuild) -> None:
        self._workspace = workspace
        self._spec = spec
        self._found = found

    @property
    def status(self) -> str:
        """Running, Succeeded or Failed, as it is now."""
        self._look()
        return self._found.status

    def wait_for_completion(self, show_output: bool = True) -> None:
        """Wait for the end; EnvironmentBuildError says why it failed."""
        shown = ""
        while True:
            self._look()
            if show_output:
                log = self._found.log
                sys.stdout.write(log[len(shown) :] if log.startswith(shown) else log)
                sys.stdout.flush()
                shown = log or shown
            if self._found.status == BuildStatus.FAILED:
                raise EnvironmentBuildError(self._found.error)
            if self._found.status == BuildStatus.SUCCEEDED:
                return
            time.sleep(LOOK_S)

    def _look(self) -> None:
        if self._found.status not in (BuildStatus.SUCCEEDED, BuildStatus.FAILED):
            self._found = self._workspace._call("build_environment", EnvironmentBody(self._spec))

    def __repr__(self) -> str:
        return f"EnvironmentBuildDetails(environment={self._spec.name!r}, status={self._found.status!r})"


def begin(workspace: Any, spec: EnvironmentSpec) -> EnvironmentBuildDetails:
    """Begin to build it on the server's machine, unless it is there."""
    return EnvironmentBuildDetails(workspace, spec, workspace._call("build_environment", EnvironmentBody(spec)))


def build_here(spec: EnvironmentSpec) -> EnvironmentBuildDetails:
    """Build it on this machine; EnvironmentBuildError names what cannot be had."""
    try:
        from runyard.environments.realise import realise
        from runyard.environments.resolve import resolve
        from runyard.environments.uv import find_uv, uv_cache_folder
    except ImportError:
        raise UserErrorException("A run cannot build environments; call this where you submit.") from None
    root = str(home_folder() / "cache")
    places: Any = {"root_folder": root, "fetch": stored_pieces}
    lock = resolve(spec, uv=find_uv(), cache_folder=uv_cache_folder(root), log=print, **places)
    realise(lock, root, uv=find_uv(), log=print, fetch=stored_pieces)
    return EnvironmentBuildDetails(None, spec, EnvironmentBuild(BuildStatus.SUCCEEDED, lock=lock))


def stored_pieces(file: StoredFile) -> Iterator[bytes]:
    """The bytes of a wheel or build context that a workspace of the current server keeps."""
    names: Dict[str, Any] = {"workspace": file.workspace, "sha256": file.sha256, "name": file.name}
    return current_server().stream("read_environment_file", **names)


def image_details(workspace: Any, spec: EnvironmentSpec) -> Dict[str, Any]:
    """What was built of it on the server's machine."""
    found = workspace._call("build_environment", EnvironmentBody(spec), query={"look": "1"})
    if found.lock is None:
        raise UserErrorException(f"The environment {spec.name!r} is not built yet; call build(workspace) first.")
    return _details(found.lock)


def _details(lock: Lock) -> Dict[str, Any]:
    return {
        "digest": lock.digest,
        "builder": lock.builder,
        "builderWhy": lock.builder_why,
        "python": lock.python or lock.interpreter_path,
        "asOf": lock.as_of,
        "packages": [without_credentials(pin) for pin in lock.requirements],
        "builtFromSource": [one.requirement for one in lock.sources],
        "notes": [{"subject": n.subject, "asked": n.asked, "got": n.got, "why": n.why} for n in lock.notes],
    }
