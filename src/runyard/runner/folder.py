"""The folder of one attempt: what lies where, and how its source tree gets there."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, TypeVar

from runyard.client.http import Server
from runyard.client.transfer import ASK_COUNT
from runyard.errors import IntegrityError, ServiceException
from runyard.files.blobs import BlobStore
from runyard.files.layout import write_atomically
from runyard.files.processes import identity
from runyard.files.snapshots import restore_tree
from runyard.protocol.blobs import DigestList
from runyard.protocol.bundles import split_bundle
from runyard.protocol.datasets import Source
from runyard.protocol.distributed import Task, tasks_of
from runyard.protocol.plan import LAUNCH_FILE, Isolation, Launch, LaunchPlan
from runyard.protocol.trees import decode_tree
from runyard.protocol.wire import loads

T = TypeVar("T")

#: How long a run's start waits for files that cannot be reached, seconds.
AWAY_S = 600.0
#: Contents up to this size come several in one reply, bytes.
BUNDLED_MAX = 1 << 20

_AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB


class AttemptFolder:
    """Paths of an attempt, and what the compute target wrote there."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        with open(os.path.join(path, LAUNCH_FILE), "rb") as file:
            launch = loads(Launch, file.read().decode())
        self.plan, self.facts, self.secret = launch.plan, launch.facts, launch.secret
        #: Which of the attempt's nodes this is, from 0; the first one speaks for the run.
        self.node = launch.node
        asked = self.plan.distribution
        everyone = () if asked is None else tasks_of(asked, self.plan.node_count)
        #: The processes of a distributed run that are this node's.
        self.tasks: Tuple[Task, ...] = tuple(one for one in everyone if one.node == self.node)
        #: Marks this attempt's processes; the path tells it from a run of the same id in another home of this host.
        self.key = f"{self.plan.run_id}/{self.plan.attempt} {self.path}"
        #: The script's working folder: the source tree, with outputs/ and logs/.
        self.work = self.path / "work"
        self.spool = self.path / "spool"
        self.inputs = self.path / "inputs"
        self.outputs = self.path / "outputs"
        self.log = self.path / "std_log.txt"
        self.reports = self.path / "reports.jsonl"
        #: Where a job apart finds the server's address: a copy that the runner keeps up, since it sees no other.
        self.server_file = self.path / "tmp" / "server.json"
        self._shared = b""
        #: What programs of ours beside the job's run on, and where they are; the job may not reach the runner's own.
        self.python, self.programs = sys.executable, ""
        #: There once the machine takes the node back; its script may watch for it.
        self.eviction = self.path / "tmp" / "eviction.json"
        #: Logs of the single processes of a distributed run.
        self.processes = self.path / "processes"

    def process_log(self, task: Task) -> Path:
        """Where that process's output goes."""
        return self.processes / f"{task.rank}.txt"

    def make(self) -> None:
        """Make the folders that must be there when the script starts."""
        if self.plan.distribution is not None:
            self.processes.mkdir(exist_ok=True)
        for folder in (self.work / "outputs", self.work / "logs", self.spool, self.inputs, self.path / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)

    def store(self) -> Optional[BlobStore]:
        """The blob store, where this node shares its disk with the server."""
        return _opened(self.facts.store_folder) if self.facts.store_folder else None

    def datastore_root(self, source: Source) -> Path:
        """The folder of a datastore that lies on this machine's disk."""
        if source.root is not None:
            return Path(source.root)
        return Path(self.facts.datastores_folder or "") / self.plan.workspace / str(source.datastore)

    def lay_out_source(self, server: Server) -> None:
        """Put the snapshot into the working folder."""
        digest = self.plan.snapshot
        if digest is None:
            self.work.mkdir(parents=True, exist_ok=True)
            return
        store = self.store()
        if store is None:
            store = _fetched_store(server, self.plan, self.path / "snapshot")
        self.work.mkdir(parents=True, exist_ok=True)
        restore_tree(store, decode_tree(store.read(digest)), str(self.work))

    def note(self, text: str) -> None:
        """A line in the run's own log, before its script starts or after it has ended."""
        with open(str(self.log), "a", encoding="utf-8", errors="replace") as log:
            log.write(f"Runyard: {text}\n")

    @property
    def is_confined(self) -> bool:
        """Does the script run in a sandbox? One in an image has its container for that."""
        return self.facts.isolation == Isolation.HIDDEN and self.plan.container is None

    @property
    def has_user(self) -> bool:
        """Does the script run under a user id of its own?"""
        return self.facts.isolation == Isolation.USER and self.plan.container is None

    @property
    def is_apart(self) -> bool:
        """Is what is the server's out of the script's reach?"""
        return self.is_confined or self.has_user

    def is_servers(self, path: str) -> bool:
        """Is that in the home of server or node, where nothing but its working folder is a job's, or around it?"""
        if not self.is_apart or not self.facts.home_folder:
            return False
        home, own, real = (os.path.realpath(str(one)) for one in (self.facts.home_folder, self.work, path))
        return os.path.commonpath([home, real]) in (home, real) and os.path.commonpath([own, real]) != own

    def program(self, path: str) -> str:
        """Where the job finds that file of the runner's."""
        if not self.programs:
            return os.path.abspath(path)
        return shutil.copyfile(path, os.path.join(self.programs, os.path.basename(path)))

    def share_server_file(self) -> None:
        """Bring the copy of the server's address that a job apart has up to date."""
        if not self.is_apart or not self.facts.server_file:
            return
        try:
            with open(self.facts.server_file, "rb") as file:
                found = file.read()
            # What was written is remembered, and not read back: what is there now may be the job's.
            if self._shared != found:
                write_atomically(self.server_file, found, 0o644 if self.has_user else 0o600)
                self._shared = found
        except FileNotFoundError:
            pass  # The server is away; its last address stays.

    def notice_eviction(self) -> None:
        """Let the script see that its processes end in ``grace_s`` seconds, whatever they do with TERM."""
        ends_at = time.time() + self.plan.grace_s
        write_atomically(self.eviction, json.dumps({"ends_at": ends_at}).encode())

    def say(self, text: str) -> None:
        """A line in the runner's own log; a full disk swallows it."""
        try:
            os.write(2, (text + "\n").encode("utf-8", "replace"))
        except OSError:
            pass


def host_name_of(key: str) -> str:
    """The name of what the attempt of that key has on its host outside its folder: memory, a group, containers."""
    return "runyard-" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def claim(folder: str) -> int:
    """Become this attempt's one runner, and say so on disk; BlockingIOError where another lives.

    The lock is the process's own, so that the kernel takes it back whatever ends it. Returns its descriptor, to be
    closed after the attempt.
    """
    lock = os.open(os.path.join(folder, "runner.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, _AT_ONCE)
    path = os.path.join(folder, "runner.json")
    with open(path + ".new", "w") as file:
        file.write(_record_of(os.getpid()))
    os.replace(path + ".new", path)
    return lock


def leave(folder: str) -> None:
    """Be this attempt's runner no more, now that it is over: nothing of it is recovered, no signal for it comes here.

    Whoever sends a signal holds the same lock from its look at the file until it has sent it.
    """
    os.unlink(os.path.join(folder, LAUNCH_FILE))
    path = os.path.join(folder, "runner.json")
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.unlink(path)


def remove(folder: str) -> None:
    """Remove the folder of an attempt that is over, as far as that is possible."""
    remove_tree(folder)
    try:
        os.rmdir(os.path.dirname(folder))
    except OSError:
        pass  # another attempt's folder is there


def remove_tree(folder: str) -> None:
    """Remove a folder of an attempt, if it is there, as far as that is possible.

    Most of what it holds is a few files and empty folders, for which ``rmtree`` takes three times as long.
    """
    try:
        _remove(folder)
    except (OSError, RecursionError):
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            try:
                os.rmdir(entry.path)
            except OSError:
                _remove(entry.path)
    os.rmdir(folder)


@lru_cache(maxsize=1)
def _record_of(pid: int) -> str:
    """What tells this process from any other; the same for all of its attempts."""
    return json.dumps(identity(pid))


@lru_cache(maxsize=None)
def _opened(root: str) -> BlobStore:
    """The store that this node shares with the server; once a process, since all its attempts use the same."""
    return BlobStore(Path(root), is_first=False)


def _fetched_store(server: Server, plan: LaunchPlan, folder: Path) -> BlobStore:
    """A store of this attempt alone, with the snapshot's contents from the server: small ones many at once."""
    store, digest = BlobStore(folder), plan.snapshot or ""
    names: Dict[str, Any] = {"workspace": plan.workspace, "run_id": plan.run_id}
    tree = _patiently(lambda: server.call("read_snapshot_file", digest=digest, **names))
    store.put_stream([tree], digest)
    sizes = {entry.digest: entry.size_bytes for entry in decode_tree(tree).entries}
    missing = [one for one in sizes if one not in store.has(sizes)]
    small = [one for one in missing if sizes[one] <= BUNDLED_MAX]
    while small:
        asked = DigestList(tuple(small[:ASK_COUNT]))
        contents = split_bundle(_patiently(partial(server.call, "read_snapshot_files", asked, **names)))
        for wanted, found in zip(small, store.put_many(contents)):
            if wanted != found:
                raise IntegrityError(f"The content {wanted} of the snapshot arrived damaged.")
        small = small[len(contents) :]
    for one in missing:
        if sizes[one] > BUNDLED_MAX:
            read = partial(server.stream, "read_snapshot_file", digest=one, **names)
            _patiently(partial(_store_stream, store, read, one))
    return store


def _store_stream(store: BlobStore, read: Callable[[], Iterable[bytes]], digest: str) -> str:
    return store.put_stream(read(), digest)


def _patiently(request: Callable[[], T]) -> T:
    """The request's value; a server whose files cannot be reached at present is asked again for some minutes."""
    ends_at = time.monotonic() + AWAY_S
    while True:
        try:
            return request()
        except ServiceException as error:
            if type(error) is not ServiceException or time.monotonic() > ends_at:
                raise
            time.sleep(1.0)
