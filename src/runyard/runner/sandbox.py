"""The script behind bubblewrap: of the server's home it has its own folders alone, and it sees no process but its own.

What it may touch of the rest of the machine is what its user may: a sandbox protects the server, its records and other
runs, not the user's own files.
"""

import os
import signal
import sys
import tempfile
from glob import glob
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from runyard.environments.confinement import PROGRAM, VARIABLE, basic_words, deaf_words, hearing, why_not
from runyard.environments.kit import Kit
from runyard.errors import ServiceException
from runyard.files.processes import process_name
from runyard.protocol.distributed import DistributionKind
from runyard.runner.bound import BoundFolder, bound_folders, run_folders
from runyard.runner.folder import AttemptFolder, host_name_of, remove_tree
from runyard.runner.gang import Gang
from runyard.runner.mpi_daemon import VARIABLE as HOST_NAME
from runyard.runner.processes import Script, descendants, exit_code, signal_process
from runyard.runner.team import Launcher
from runyard.runner.writable import ShownEnvironment, show_environment

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


def confined(
    folder: AttemptFolder,
    interpreter: str,
    kit: Kit,
    data: Dict[str, str],
    enter: Optional[Callable[[], None]] = None,
) -> Launcher:
    """Starts processes of that run in a sandbox; ``enter`` as in Script. ServiceException where bubblewrap cannot."""
    if why_not():
        raise ServiceException(f"{VARIABLE} is hidden, and {why_not()}.")
    prefix = _shared_environment(interpreter, folder.facts.cache_folder)
    memory = shared_memory(folder)
    remove_tree(memory)
    for name in (memory, _shown_memory(folder)):
        os.mkdir(name, 0o700)
    programs = os.path.join(memory, "environment")
    shown = show_environment(folder, prefix, programs) if prefix else ShownEnvironment(())
    bound = bound_folders(folder, kit, data)

    def start(command: List[str], variables: Dict[str, str], log: Path, files: Tuple[int, ...]) -> Script:
        # MPI has made some of the run's folders just before. Where links lead was looked at when no script ran yet.
        words = sandbox_words(folder, shown, bound)
        # The job's variables are for what is inside: outside, PATH or LD_PRELOAD would let its own code in. They go by
        # a file of no name, since everyone sees a command line.
        settings = ["--clearenv", *(part for pair in variables.items() for part in ("--setenv", *pair))]
        with tempfile.TemporaryFile() as arguments:
            arguments.write(b"".join(os.fsencode(one) + b"\0" for one in settings))
            arguments.seek(0)
            number = arguments.fileno()
            if HOST_NAME in variables:
                words += ["--unshare-uts", "--hostname", variables[HOST_NAME]]
            words = [*deaf_words(), *words, "--args", str(number), "--", *hearing(command)]
            outside = {"PATH": os.defpath, "RUNYARD_KEY": folder.key}
            return SandboxScript(words, outside, folder.work, log, (number, *files), enter)

    def launch(command: List[str], variables: Dict[str, str], _work: Path, log: Path) -> Script:
        return start(command, shown.complete(variables), log, ())

    asked = folder.plan.distribution
    if asked is None or asked.kind == DistributionKind.MPI or len(folder.tasks) < 2:
        return launch
    gang = Gang(lambda words, files: start(words, {"PATH": os.defpath}, folder.log, files), len(folder.tasks))
    return lambda command, variables, work, log: gang(command, shown.complete(variables), work, log)


def sandbox_words(folder: AttemptFolder, shown: ShownEnvironment, data: Sequence[BoundFolder]) -> List[str]:
    """What stands before a command and its variables, so that it runs confined."""
    home = folder.facts.home_folder
    words = [*basic_words(), "--bind", _shown_memory(folder), "/dev/shm"]
    for path in [one for pattern in DEVICES for one in glob(pattern)]:
        words += ["--dev-bind", path, path]
    # What runners and servers are made of: changed, it would run outside of here. A runner that a node has fetched lies
    # in the home.
    made_of = {sys.prefix, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))} - shown.places
    fetched = {one for one in made_of if one.startswith(home + os.sep)}
    for path in sorted(made_of - fetched):
        words += ["--ro-bind", path, os.path.realpath(path)]
    # A file of the user's that is an input may lie in a folder around the home, which stays empty.
    around = [one for one in data if (home + os.sep).startswith(one.path.rstrip(os.sep) + os.sep)]
    for bound in around:
        words += ["--ro-bind" if bound.is_read_only else "--bind", bound.path, os.path.realpath(bound.path)]
    real_home = os.path.realpath(home)
    words += ["--tmpfs", real_home]
    found = [("--ro-bind", path, path) for path in sorted(fetched)]
    found += shown.binds
    for bound in [*run_folders(folder), *(one for one in data if one not in around)]:
        found.append(("--ro-bind" if bound.is_read_only else "--bind", bound.path, bound.path))
    for bind, path, place in found:
        # bubblewrap makes folders in the emptied home, and follows no link on its way there.
        is_inside = place.startswith(home + os.sep)
        words += [bind, path, real_home + place[len(home) :] if is_inside else os.path.realpath(place)]
    return [*words, "--chdir", str(folder.work)]


def shared_memory(folder: AttemptFolder) -> str:
    """What this attempt has in memory on this node; its runner removes it."""
    return "/dev/shm/" + host_name_of(folder.key)


def _shown_memory(folder: AttemptFolder) -> str:
    """What its processes have as /dev/shm."""
    return os.path.join(shared_memory(folder), "shm")


def _shared_environment(interpreter: str, cache_folder: str) -> str:
    """The environment of that interpreter, where it is one of ours, or the one that runner and server run in."""
    relative = os.path.relpath(interpreter, cache_folder)
    parts = relative.split(os.sep)
    if parts[0] != os.pardir:
        return os.path.join(cache_folder, *parts[:2])
    return sys.prefix if interpreter.startswith(os.path.join(sys.prefix, "")) else ""
