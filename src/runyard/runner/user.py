"""The script under a user id of its own, where a runner is root: the disk's permissions keep it to what is its own.

What of the attempt's folder the job may write is its user's; the folder itself and all else in it stay root's, so that
nothing can be put in the place of what the runner reads and writes there.
"""

import fcntl
import json
import os
import random
import resource
import shutil
import stat
import subprocess
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from runyard.environments.confinement import VARIABLE as ASKED
from runyard.environments.job_users import (
    LOCKS_FOLDER,
    VARIABLE,
    become,
    is_somebody,
    open_home,
    prepare,
    user_ids,
    why_no_users,
)
from runyard.errors import ServiceException, UserErrorException
from runyard.files.processes import of_user
from runyard.protocol.distributed import DistributionKind
from runyard.protocol.plan import LAUNCH_FILE
from runyard.runner.folder import AttemptFolder
from runyard.runner.processes import Script
from runyard.runner.team import Launcher
from runyard.runner.writable import own_environment

#: What a lock's file holds once nothing of its last user is left; else it names the folder of an attempt.
_FREE = "free"
#: Where everybody may leave files.
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
#: By how many the kernel's own limit of a user's processes is above that of the run's group.
SPARE_PROCESSES = 16
#: Folders of the attempt that are the job's to write.
_OWN = ("spool", "tmp", "home")


class JobUser:
    """The user id of one attempt on this node, which no other has while it lives."""

    def __init__(self, folder: AttemptFolder, number: int, lock: int) -> None:
        self._folder = folder
        self.number = number
        self._lock = lock

    @classmethod
    def take(cls, folder: AttemptFolder) -> "JobUser":
        """An id that nobody has; ServiceException where all are in use, or a node cannot do what was asked of it."""
        ids, facts = user_ids(), folder.facts
        # A server has looked on its own host.
        if facts.server_file is None and why_no_users(facts.home_folder):
            raise ServiceException(f"{ASKED} is user, and {why_no_users(facts.home_folder)}.")
        # In no order, so that it is long until one comes again.
        for number in random.sample(ids, len(ids)):
            lock = _lock(number)
            if lock is None:
                continue
            if _is_free(lock, number) and not is_somebody(number):
                _write(lock, str(folder.path))
                (folder.path / "user.json").write_text(json.dumps(number))
                return cls(folder, number, lock)
            os.close(lock)
        raise ServiceException(f"All {len(ids)} user ids for jobs are in use on this host; {VARIABLE} can name more.")

    @classmethod
    def find(cls, folder: AttemptFolder) -> "Optional[JobUser]":
        """The one that an earlier runner of the attempt took; None where there is none, or it was given back."""
        try:
            number = int(json.loads((folder.path / "user.json").read_text()))
        except (OSError, ValueError):
            return None
        lock = _lock(number)
        if lock is not None and _read(lock) == str(folder.path):
            return cls(folder, number, lock)
        if lock is not None:
            os.close(lock)
        return None

    def close(self) -> None:
        """Give it back: its processes have ended. What it has left where everybody may leave files goes with it."""
        for top in SHARED_FOLDERS:
            _remove_of(self.number, top)
        _write(self._lock, _FREE)
        os.close(self._lock)

    def hand_over(self) -> None:
        """Give it the folders that are the job's; nothing of the inputs is there yet."""
        folder, asked = self._folder, self._folder.plan.distribution
        open_home(folder.facts.home_folder)
        os.chmod(str(folder.path.parent), 0o711)
        os.chown(str(folder.path), 0, self.number)
        os.chmod(str(folder.path), 0o710)
        own: Tuple[str, ...] = _OWN
        if asked is not None and asked.kind == DistributionKind.MPI:
            own = (*own, "launches")
            for task in folder.tasks:
                # Ranks open their own; the folder, where they could put a link, is not theirs.
                os.close(os.open(str(folder.process_log(task)), os.O_WRONLY | os.O_CREAT, 0o600))
                self._own(str(folder.process_log(task)))
        for name in own:
            (folder.path / name).mkdir(exist_ok=True)
            self._own(str(folder.path / name))
        (folder.path / "bin").mkdir(exist_ok=True)
        folder.programs = str(folder.path / "bin")
        self._own_tree(str(folder.work))

    def own_outputs(self, outputs: Dict[str, str]) -> None:
        """Give it the folders of its outputs, by name; one that lies anywhere on the disk it makes itself."""
        tops = [os.path.realpath(str(one)) for one in (self._folder.work, self._folder.outputs)]
        for name, path in outputs.items():
            real = os.path.realpath(path)
            top = next((one for one in tops if real.startswith(one + os.sep) and os.path.isdir(real)), None)
            if top is None:
                self._make(name, path)
            while top is not None and real != top:
                self._own(real)
                real = os.path.dirname(real)

    def launcher(
        self, interpreter: str, enter: Optional[Callable[[], None]], processes_max: Optional[int] = None
    ) -> Tuple[str, Launcher]:
        """The interpreter as the job may run it, and what starts its processes, of which there are as many at the most.

        ``enter`` as in Script.
        """
        prepare()
        self._folder.python = interpreter
        interpreter, shown = own_environment(self._folder, interpreter)
        self._own_tree(str(self._folder.path / "environment"))

        def enter_as_user() -> None:
            if enter is not None:
                enter()
            if processes_max is not None:
                # A group that holds it to that number can tell that it wanted more; this holds where there is none.
                most = processes_max + SPARE_PROCESSES
                resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
            become(self.number)

        def launch(command: List[str], variables: Dict[str, str], work: Path, log: Path) -> Script:
            try:
                return Script(command, shown.complete(variables), work, log, enter=enter_as_user)
            except PermissionError as error:
                raise UserErrorException(
                    f"{command[0]!r} may not be started by a job's user, since it or a folder above it is closed to "
                    f"others ({error.strerror}); let them pass (chmod o+x), or use a Python that lies elsewhere."
                ) from None

        return interpreter, launch

    def _make(self, name: str, path: str) -> None:
        program = shutil.which("mkdir", path=os.defpath) or "/bin/mkdir"
        done = subprocess.run(
            [program, "-p", path],
            preexec_fn=partial(become, self.number),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            raise UserErrorException(f"Output {name!r}: its folder {path!r} cannot be made by the job's user: {said}.")
        if os.lstat(path).st_uid != self.number:
            # What others have there is theirs to read.
            raise UserErrorException(f"Output {name!r}: its folder {path!r} is there already, and not the run's own.")

    def _own(self, path: str) -> None:
        os.chown(path, self.number, self.number, follow_symlinks=False)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.chmod(path, 0o700)

    def _own_tree(self, top: str) -> None:
        """All of it; nothing of the job runs yet."""
        if not os.path.isdir(top):
            return
        self._own(top)
        for parent, folders, names in os.walk(top):
            for name in (*folders, *names):
                self._own(os.path.join(parent, name))


def share(origin: str, place: str) -> None:
    """Let a job read that file, under that name alone: by another name of it where that can be, else by a copy."""
    if os.stat(origin).st_mode & stat.S_IROTH:
        with suppress(OSError):
            os.link(origin, place)
            return
    shutil.copyfile(origin, place)
    os.chmod(place, 0o444)


def is_open(path: str) -> bool:
    """May everybody read that file, by that path?"""
    return bool(os.stat(path).st_mode & stat.S_IROTH) and _is_passable(os.path.dirname(path))


@lru_cache(maxsize=4096)
def _is_passable(folder: str) -> bool:
    above = os.path.dirname(folder)
    is_it = bool(os.stat(folder).st_mode & stat.S_IXOTH)
    return is_it and (above == folder or _is_passable(above))


def _lock(number: int) -> Optional[int]:
    """The id's file, locked; None where another attempt has it. The kernel takes it back whatever ends its holder."""
    os.makedirs(LOCKS_FOLDER, 0o700, exist_ok=True)
    lock = os.open(os.path.join(LOCKS_FOLDER, str(number)), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_free(lock: int, number: int) -> bool:
    """Is nothing left of whoever had it? An attempt whose runner was killed has it until another has ended it."""
    holder = _read(lock)
    if holder in (_FREE, ""):
        # Only somebody else's service could be running as it; it does not hide.
        return holder == _FREE or not any(map(partial(_is_plainly_of, number), os.listdir("/proc")))
    if os.path.exists(os.path.join(holder, LAUNCH_FILE)):
        return False
    return not any(of_user(number))


def _is_plainly_of(number: int, entry: str) -> bool:
    with suppress(OSError):
        return entry.isdigit() and os.stat("/proc/" + entry).st_uid == number
    return False


def _read(lock: int) -> str:
    return os.fsdecode(os.pread(lock, 4096, 0))


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(text), 0)


def _remove_of(user: int, top: str) -> None:
    with suppress(OSError), os.scandir(top) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid != user:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
