"""Environments on their way: specs resolved to locks, locks built, each once however many runs wait for it."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Optional

from sqlalchemy import Connection

from runyard.control.environment_files import EnvironmentFiles
from runyard.control.sealing import Sealer
from runyard.db import fleet
from runyard.db.engine import Database
from runyard.environments.build import read_result
from runyard.environments.realise import is_realised
from runyard.environments.resolve import resolve
from runyard.environments.stored_files import bring, stored_of
from runyard.environments.uv import find_uv, uv_cache_folder
from runyard.errors import AzureMLException
from runyard.files.layout import write_atomically
from runyard.protocol.environments import EnvironmentSpec, Lock, spec_digest
from runyard.protocol.record import record
from runyard.protocol.wire import dumps

#: Builds at once: one downloads while another compiles.
BUILDS_AT_ONCE = 2


@record
class BuildState:
    """How far a spec's environment is."""

    #: resolving, building, ready, failed
    state: str
    log_path: Path
    lock: Optional[Lock] = None
    error: str = ""


class Builds:
    """Resolves and builds environments beside the loop; ``on_change`` is called when one has moved."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        cache_folder: Path,
        sealer: Sealer,
        files: EnvironmentFiles,
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._fetch = files.pieces
        self._folder = folder
        self._cache_folder = cache_folder
        self._on_change = on_change
        self._pool = ThreadPoolExecutor(BUILDS_AT_ONCE, thread_name_prefix="build")
        self._states: Dict[str, BuildState] = {}
        self._guard = threading.Lock()

    def find_ready(self, connection: Connection, key: str, is_here: bool = True) -> Optional[Lock]:
        """The lock of an environment that needs no work at all, by its spec's digest; quick.

        Without ``is_here`` its runs are on other machines, which build it from the lock.
        """
        lock = fleet.find_lock(connection, key)
        return lock if lock is not None and (not is_here or is_realised(lock, str(self._cache_folder))) else None

    def request(self, spec: EnvironmentSpec, is_here: bool = True) -> BuildState:
        """Where the spec's environment is now; begins the work at the first call. A failed one is told once a call."""
        key = spec_digest(spec)
        with self._guard:
            state = self._states.get(_name(key, is_here))
            if state is None:
                state = BuildState("resolving", self._folder / (_name(key, is_here) + ".log"))
                self._states[_name(key, is_here)] = state
                # A new file from the first look on: the last build's is linked into the records of those who waited.
                state.log_path.unlink(missing_ok=True)
                self._pool.submit(self._work, key, spec, state.log_path, is_here)
            return state

    def forget(self, spec: EnvironmentSpec) -> None:
        """Let the next request try again: after a failure, or once it is in use. What is at work goes on."""
        if self._states:
            with self._guard:
                for is_here in (True, False):
                    name = _name(spec_digest(spec), is_here)
                    if name in self._states and self._states[name].state in ("ready", "failed"):
                        del self._states[name]

    def open_lock(self, lock: Lock) -> Lock:
        """The lock with its passwords, for a machine that builds it."""
        return self._sealer.open_lock(lock)

    def close(self) -> None:
        """Take no more work; a build that runs goes on by itself and is found by the next server."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, key: str, spec: EnvironmentSpec, log_path: Path, is_here: bool) -> None:
        state = BuildState("failed", log_path, None, "The build ended without a word; see the server's log.")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(log_path, "a", buffering=1, encoding="utf-8") as log:
                lock = self._resolve(key, spec, lambda line: print(line, file=log))
            error = ""
            if is_here:
                self._set(_name(key, is_here), BuildState("building", log_path, lock))
                error = self.build(key, lock, log_path)
            state = BuildState("failed" if error else "ready", log_path, lock, error)
        except AzureMLException as error:
            state = BuildState("failed", log_path, None, str(error))
            _append(log_path, str(error))
        except Exception as error:
            state = BuildState("failed", log_path, None, f"The environment could not be prepared: {error}.")
            _append(log_path, repr(error))
            raise
        finally:
            self._set(_name(key, is_here), state)

    def _resolve(self, key: str, spec: EnvironmentSpec, log: Callable[[str], None]) -> Lock:
        with self._database.read() as connection:
            found = fleet.find_lock(connection, key)
        if found is not None:
            return found
        cache = str(self._cache_folder)
        clear = self._sealer.open_spec(spec)
        lock = resolve(
            clear, uv=find_uv(), cache_folder=uv_cache_folder(cache), log=log, root_folder=cache, fetch=self._fetch
        )
        lock, now = self._sealer.seal_lock(lock), _now_us()
        self._database.write(lambda connection: fleet.save_lock(connection, key, lock, "control", now))
        return lock

    def build(self, key: str, lock: Lock, log_path: Optional[Path] = None) -> str:
        """Build the lock in a process of its own, which outlives the server; returns '' or why it failed.

        ``key`` names its files; its log is said where no run waits for it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        log_path = log_path or self._folder / (key + ".log")
        lock_path, result_path = self._folder / (key + ".lock.json"), self._folder / (key + ".result.json")
        clear = self._sealer.open_lock(lock)
        bring(stored_of(clear), str(self._cache_folder), self._fetch)
        write_atomically(lock_path, dumps(clear).encode(), mode=0o600)
        result_path.unlink(missing_ok=True)
        arguments = [str(lock_path), str(self._cache_folder), str(log_path), str(result_path)]
        done = subprocess.run(
            [sys.executable, "-m", "runyard.environments.build", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            check=False,
        )
        # It may hold a password.
        lock_path.unlink(missing_ok=True)
        result = read_result(str(result_path))
        if result is None:
            tail = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            return "The build of the environment broke off (exit {}): {}".format(done.returncode, "".join(tail))
        return "" if result.ok else f"{result.message} {result.details}".strip()

    def _set(self, key: str, state: BuildState) -> None:
        with self._guard:
            self._states[key] = state
        self._on_change()


def _name(key: str, is_here: bool) -> str:
    return key if is_here else key + "-elsewhere"


def _append(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8") as log:
        log.write(line + "\n")


def _now_us() -> int:
    return time.time_ns() // 1000
