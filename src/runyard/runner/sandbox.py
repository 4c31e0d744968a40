"""The script behind bubblewrap: of the server's home it has its own folders alone, and it sees no process but its own.

What it may touch of the rest of the machine is what its user may: a sandbox protects the server, its records and other
runs, not the user's own files.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import lru_cache
from glob import glob
from hashlib import sha256
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
#: Of the run's own folder, beside its data: what it writes, and what only its runner does. Logs of the runner, its
#: reports and its identity are not there at all.
_OWN = {"processes": "--bind", "launches": "--bind", "ranks": "--ro-bind", "bin": "--ro-bind"}
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
        # The job's variables are for what is inside: outside, PATH or LD_PRELOAD would let its own code in. They go by
        # a file of no name, since everyone sees a command line.
        settings = ["--clearenv", *(part for pair in variables.items() for part in ("--setenv", *pair))]
        with tempfile.TemporaryFile() as arguments:
            arguments.write(b"".join(os.fsencode(one) + b"\0" for one in settings))
            arguments.seek(0)
            number = arguments.fileno()
            words = [*words[:-1], "--args", str(number), "--", *command]
            outside = {"PATH": os.defpath, "RUNYARD_KEY": folder.key}
            return SandboxScript(words, outside, work, log, (number,))

    return launch


def sandbox_words(folder: AttemptFolder, interpreter: str, kit: Kit, data: Dict[str, str]) -> List[str]:
    """What stands before a command, so that it runs confined."""
    facts, memory = folder.facts, shared_memory(folder)
    os.makedirs(memory, 0o700, exist_ok=True)
    words = [_program(), "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--bind", "/", "/"]
    words += ["--dev", "/dev", "--bind", memory, "/dev/shm"]
    for path in [one for pattern in DEVICES for one in glob(pattern)]:
        words += ["--dev-bind", path, path]
    # Root without a capability may still write the kernel's settings.
    words += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--ro-bind", "/sys", "/sys"]
    # What runners and servers are made of: changed, it would run outside of here.
    for path in (sys.prefix, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
        words += ["--ro-bind", path, path]
    words += ["--tmpfs", facts.home_folder]
    for name, bind in _OWN.items():
        if (folder.path / name).exists():
            words += [bind, str(folder.path / name), str(folder.path / name)]
    for path in _environment_folder(interpreter, facts.cache_folder):
        words += ["--ro-bind", path, path]
    for bound in bound_folders(folder, kit, data):
        words += ["--ro-bind" if bound.is_read_only else "--bind", bound.path, bound.path]
    return [*words, "--chdir", str(folder.work), "--"]


@lru_cache(maxsize=1)
def check_sandbox() -> None:
    """ServiceException, with what to do, where this host cannot confine a process so."""
    words = [_program(), "--unshare-pid", "--cap-drop", "ALL", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    done = subprocess.run(
        [*words, "--", "true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise ServiceException(f"RUNYARD_ISOLATION is hidden, and bubblewrap cannot confine here: {said}.")


def shared_memory(folder: AttemptFolder) -> str:
    """What the processes of this attempt on this node have as /dev/shm; its runner removes it."""
    return "/dev/shm/runyard-" + sha256(folder.key.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _program() -> str:
    """bubblewrap, by the runner's own PATH."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise ServiceException("RUNYARD_ISOLATION is hidden, which needs bubblewrap (Debian: bubblewrap); install it.")
    return found


def _environment_folder(interpreter: str, cache_folder: str) -> Sequence[str]:
    """The one environment that the script runs in, where it is one of ours."""
    relative = os.path.relpath(interpreter, cache_folder)
    parts = relative.split(os.sep)
    return [] if parts[0] == os.pardir else [os.path.join(cache_folder, *parts[:2])]
