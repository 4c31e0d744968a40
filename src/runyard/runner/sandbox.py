"""The script behind bubblewrap: of the server's home it has its own folders alone, and it sees no process but its own.

What it may touch of the rest of the machine is what its user may: a sandbox protects the server, its records and other
runs, not the user's own files.
"""

import os
import shutil
import signal
import subprocess
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from runyard.environments.kit import Kit
from runyard.errors import ServiceException
from runyard.files.processes import process_name
from runyard.runner.bound import bound_folders
from runyard.runner.container import exit_code
from runyard.runner.folder import AttemptFolder
from runyard.runner.processes import Script, descendants, signal_process
from runyard.runner.team import Launcher

PROGRAM = "bwrap"
#: Devices that a job may need; of all others it has the harmless ones that bubblewrap makes.
DEVICES = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/infiniband")


class SandboxScript(Script):
    """bubblewrap's own process, which ends as the script does."""

    def wait(self, timeout_s: float) -> Optional[int]:
        """As Script.wait: bubblewrap gives 128 + n where signal n ended the script."""
        return exit_code(super().wait(timeout_s))

    def terminate(self) -> None:
        """Ask the script and what it started to end; bubblewrap itself would take them along at once."""
        for pid in descendants(self.pid):
            if process_name(pid) != PROGRAM:
                signal_process(pid, signal.SIGTERM)


def confined(folder: AttemptFolder, interpreter: str, kit: Kit, data: Dict[str, str]) -> Launcher:
    """Starts processes of that run in a sandbox. ServiceException where bubblewrap does not work."""
    check_sandbox()

    def launch(command: List[str], variables: Dict[str, str], work: Path, log: Path) -> Script:
        # What lies in the run's folder by now is bound: MPI has made some of it just before.
        words = sandbox_words(folder, interpreter, kit, data)
        return SandboxScript([*words, *command], variables, work, log)

    return launch


def sandbox_words(folder: AttemptFolder, interpreter: str, kit: Kit, data: Dict[str, str]) -> List[str]:
    """What stands before a command, so that it runs confined."""
    facts = folder.facts
    words = [PROGRAM, "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--bind", "/", "/"]
    words += ["--dev", "/dev", "--bind", "/dev/shm", "/dev/shm"]
    for path in [one for pattern in DEVICES for one in glob(pattern)]:
        words += ["--dev-bind", path, path]
    words += ["--proc", "/proc", "--tmpfs", facts.home_folder]
    for one in _own_folders(folder):
        words += ["--bind", one, one]
    for path in _environment_folder(interpreter, facts.cache_folder):
        words += ["--ro-bind", path, path]
    for bound in bound_folders(folder, kit, data):
        words += ["--ro-bind" if bound.is_read_only else "--bind", bound.path, bound.path]
    return [*words, "--chdir", str(folder.work), "--"]


@lru_cache(maxsize=1)
def check_sandbox() -> None:
    """ServiceException, with what to do, where this host cannot confine a process so."""
    if shutil.which(PROGRAM) is None:
        raise ServiceException("RUNYARD_ISOLATION is hidden, which needs bubblewrap (Debian: bubblewrap); install it.")
    words = [PROGRAM, "--unshare-pid", "--cap-drop", "ALL", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    done = subprocess.run(
        [*words, "--", "true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise ServiceException(f"RUNYARD_ISOLATION is hidden, and bubblewrap cannot confine here: {said}.")


def _own_folders(folder: AttemptFolder) -> Sequence[str]:
    """What a script writes beside its data; logs, reports and the runner's identity are not its own."""
    more = [folder.processes, folder.path / "ranks", folder.path / "bin", folder.path / "launches"]
    return [str(one) for one in more if one.exists()]


def _environment_folder(interpreter: str, cache_folder: str) -> Sequence[str]:
    """The one environment that the script runs in, where it is one of ours."""
    relative = os.path.relpath(interpreter, cache_folder)
    parts = relative.split(os.sep)
    return [] if parts[0] == os.pardir else [os.path.join(cache_folder, *parts[:2])]
