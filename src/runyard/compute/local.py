"""Runs on this host: a folder an attempt and node, a runner forked by the nursery, liveness by pid, start and boot."""

import errno
import fcntl
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from runyard.errors import ServiceException, StorageFullError
from runyard.files.layout import DISK_FULL, attempt_folder
from runyard.files.processes import boot_id, is_alive
from runyard.protocol.plan import LAUNCH_FILE, Launch, LaunchPlan, NodeFacts, Observation, ObservedState
from runyard.protocol.wire import dumps

#: How long the nursery may take to fork a runner, seconds; it imports the runner when it starts.
NURSERY_TIMEOUT_S = 20.0
#: Largest message between server and nursery, bytes.
MESSAGE_BYTES = 65_536


class LocalCompute:
    """The compute target of this host."""

    #: A process that is not there is gone.
    fence_s = 0.0

    def __init__(self, runs_folder: Path, facts: NodeFacts) -> None:
        self._runs_folder = runs_folder
        self._facts = facts
        self._nursery = _Nursery(runs_folder)

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        # The first node comes last: where it is, the others were started, so that polling knows what there must be.
        for node in reversed(range(plan.node_count)):
            self._start_node(self._folder(key, node), Launch(plan, self._facts, secret, node))

    def _start_node(self, folder: Path, launch: Launch) -> None:
        try:
            if not _make_folder(folder) and is_alive(_read_record(folder) or {}):
                return
            # Nobody reads it before the fork below; a start that broke off within it is made again as a whole.
            _write(folder / LAUNCH_FILE, dumps(launch))
        except OSError as error:
            raise _refusal(error.errno or 0, str(error)) from None
        self._nursery.fork(folder, recover=False)

    def recover(self, key: str) -> bool:
        for folder in self._folders(key):
            if (folder / LAUNCH_FILE).exists() and not is_alive(_read_record(folder) or {}):
                self._nursery.fork(folder, recover=True)
        return True

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        return {key: self._observe(key) for key in keys}

    def stop(self, key: str) -> None:
        for folder in self._folders(key):
            _signal(folder, signal.SIGTERM)

    def kill(self, key: str) -> None:
        for folder in self._folders(key):
            _signal(folder, signal.SIGKILL)

    def tidy(self, keys: Iterable[str], before: float) -> None:
        kept = {folder for key in keys for folder in self._folders(key)}
        for folder in self._runs_folder.glob("*/*"):
            is_old = folder.is_dir() and folder.stat().st_mtime < before
            if is_old and folder not in kept and not is_alive(_read_record(folder) or {}):
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    folder.parent.rmdir()
                except OSError:
                    pass  # another attempt's folder is there

    def prepare(self) -> None:
        """Start the nursery ahead of the first run."""
        self._nursery.ensure()

    def close(self) -> None:
        """End the nursery; runners live on."""
        self._nursery.close()

    def _folder(self, key: str, node: int = 0) -> Path:
        run_id, _, attempt = key.rpartition("/")
        return attempt_folder(self._runs_folder, run_id, int(attempt), node)

    def _folders(self, key: str) -> List[Path]:
        """The folder of each of the attempt's nodes that is there, the first node's in any case."""
        first = self._folder(key)
        return [first, *first.parent.glob(glob.escape(first.name) + "-*")]

    def _observe(self, key: str) -> Observation:
        first, *others = self._folders(key)
        record = _read_record(first)
        if record is None:
            return Observation(key, ObservedState.UNKNOWN)
        # A node whose part is over has no launch file any more, and soon no folder.
        found = [record, *(_read_record(one) or {} for one in others if (one / LAUNCH_FILE).exists())]
        gone = [one for one in found if not is_alive(one)]
        if not gone:
            return Observation(key, ObservedState.ALIVE)
        was_restarted = any(one.get("boot_id") != boot_id() for one in gone)
        why = "The machine was started again." if was_restarted else "Its process is gone."
        return Observation(key, ObservedState.GONE, why)


def _signal(folder: Path, number: int) -> None:
    """Signal the attempt's runner, but never a process that has left the attempt and serves another by now."""
    try:
        with open(folder / "runner.json", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            is_here = os.fstat(file.fileno()).st_nlink > 0
            record = _decode(file.read())
            if is_here and record is not None and is_alive(record):
                os.kill(int(record["pid"]), number)
    except (FileNotFoundError, ProcessLookupError):
        pass


def _read_record(folder: Path) -> Optional[Dict[str, Any]]:
    """Which process an attempt's runner is; None before it has said so."""
    try:
        return _decode((folder / "runner.json").read_bytes())
    except OSError:
        return None


def _decode(record: bytes) -> Optional[Dict[str, Any]]:
    try:
        found = json.loads(record)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _make_folder(path: Path) -> bool:
    """Make an attempt's folder, which only its owner reads; was there none?"""
    try:
        os.makedirs(path, 0o700)
    except FileExistsError:
        return False
    return True


def _for_owner(path: str, flags: int) -> int:
    """As ``os.open``; a new file is one that only its owner reads."""
    return os.open(path, flags, 0o600)


def _write(path: Path, text: str) -> None:
    """A file that only its owner reads."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text.encode())


def _refusal(number: int, text: str) -> ServiceException:
    if number in DISK_FULL:
        return StorageFullError("The disk of this machine is full, so the runner waits for space; free some.")
    return ServiceException(f"The runner could not be started: {text}.")


class _Nursery:
    """The child process that forks runners; made anew when it is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._socket: Optional[socket.socket] = None
        self._process: Optional[subprocess.Popen[bytes]] = None

    def ensure(self) -> None:
        with self._lock:
            self._connected()

    def fork(self, folder: Path, recover: bool) -> None:
        """Fork a runner for that folder; returns once its identity is on disk. ServiceException if that fails."""
        message = json.dumps({"folder": str(folder), "recover": recover}).encode()
        with self._lock:
            for attempt in (1, 2):
                try:
                    reply = self._exchange(message)
                    break
                except OSError as error:
                    self._drop()
                    if attempt == 2:
                        raise ServiceException(f"The runner could not be started: {error}.") from None
        if not reply.get("ok"):
            raise _refusal(int(str(reply.get("errno"))), str(reply.get("error")))

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _exchange(self, message: bytes) -> Dict[str, object]:
        connection = self._connected()
        connection.send(message)
        answer = connection.recv(MESSAGE_BYTES)
        if not answer:
            raise OSError(errno.EPIPE, "the nursery is gone")
        found = json.loads(answer)
        return found if isinstance(found, dict) else {}

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._drop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(NURSERY_TIMEOUT_S)
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "nursery.log", "ab", opener=_for_owner) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard.runner.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        theirs.close()
        self._socket = ours
        return ours

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket = self._process = None
