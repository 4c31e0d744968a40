"""The services of this host: each has a folder and a supervisor, a process of its own that outlives this server."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Optional, Sequence, Set, Tuple

from runyard.compute.spare_supervisor import SpareSupervisor, supervisor_variables
from runyard.files.layout import write_atomically
from runyard.files.processes import is_alive
from runyard.protocol.services import (
    LOG_FILE,
    PORT_TAKEN,
    REFUSED_FILE,
    REVISION_FILE,
    SEEN_FILE,
    WANTED_FILE,
    Seen,
    Wanted,
    log_line,
)
from runyard.protocol.wire import dumps, loads

#: How long a supervisor may take to end its processes, seconds.
END_S = 10.0
#: And until it is gone where it was killed, seconds.
KILLED_S = 5.0
#: How long a supervisor may take to its first word before another takes its place, seconds.
START_S = 30.0
#: How long after a deployment one is kept ready for the next, seconds: it takes 55 MiB.
SPARE_S = 600.0


class ServiceHost:
    """Starts, tells, watches and ends supervisors, by a service's id."""

    def __init__(self, folder: Path, isolation: str, hidden: Sequence[str]) -> None:
        """Fronts have that Isolation, and see nothing of the hidden folders."""
        self._folder, self._isolation, self._hidden = folder, isolation, hidden
        self._spare: Optional[SpareSupervisor] = None
        self._expected_at: Optional[float] = None
        #: Those that this server has started, and when: to be reaped once they end. Requests look at them too.
        self._started: Dict[str, Tuple[subprocess.Popen[bytes], float]] = {}
        self._lock = threading.Lock()

    def folder(self, service_id: str) -> Path:
        """Where all that belongs to a service lies."""
        return self._folder / service_id

    def revision_folder(self, service_id: str, number: int) -> Path:
        """Where a revision's files lie."""
        return self._folder / service_id / "revisions" / str(number)

    def revision_numbers(self, service_id: str) -> Set[int]:
        """Those whose files are there."""
        with suppress(FileNotFoundError):
            names = os.listdir(self._folder / service_id / "revisions")
            return {int(one) for one in names if one.isdigit()}
        return set()

    def remove_revision(self, service_id: str, number: int) -> None:
        """Remove a revision's files."""
        folder = self.revision_folder(service_id, number)
        # What is there to be told comes last to be prepared, and goes first: half of the rest is no revision.
        (folder / REVISION_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def log_file(self, service_id: str) -> Path:
        """What its processes and its preparation say."""
        return self._folder / service_id / LOG_FILE

    def tell(self, service_id: str, wanted: Wanted, *, may_start: bool = True) -> None:
        """Bring that about; starts the supervisor where it does not run, if it may. Idempotent."""
        folder = self.folder(service_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, text = folder / WANTED_FILE, dumps(wanted).encode()
        if not path.exists() or path.read_bytes() != text:
            write_atomically(path, text, mode=0o600)
        seen = self.seen(service_id)
        if seen is not None and self._is_alive(seen):
            os.kill(seen.pid, signal.SIGHUP)
            return
        if not may_start:
            return
        if self.is_starting(service_id) and time.monotonic() - self._started[service_id][1] > START_S:
            # On a full disk none could say anything: this raises there, and the one that is there is left alone.
            write_atomically(path, text, mode=0o600)
            self.say(service_id, f"its supervisor has said nothing for {START_S:g} s: another takes its place")
            self._drop_started(service_id)
        if not self.is_starting(service_id):
            self._start(service_id, folder)

    def expect(self) -> None:
        """A service is about to be deployed."""
        self._expected_at = time.monotonic()

    def tend(self) -> None:
        """Have a supervisor ready while services are expected; ServiceException where no process can be had."""
        if self._expected_at is None:
            return
        is_gone = self._spare is not None and not self._spare.is_alive
        if is_gone or time.monotonic() - self._expected_at > SPARE_S:
            # One that ended by itself would do so again: the next deployment tries anew.
            self.close()
        elif self._spare is None:
            self._spare = SpareSupervisor(self._isolation, self._hidden)

    def close(self) -> None:
        """End what serves nobody yet; the services go on."""
        self._expected_at = None
        self._drop_spare()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def is_starting(self, service_id: str) -> bool:
        """Was a supervisor started that still runs?"""
        process = self._process(service_id)
        return process is not None and self._exit_code(process) is None

    def seen(self, service_id: str) -> Optional[Seen]:
        """What its supervisor said last; None where none has said anything."""
        try:
            return loads(Seen, (self.folder(service_id) / SEEN_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None

    def watch(self, service_id: str) -> Optional[Seen]:
        """What its supervisor says; None where it does not run."""
        seen = self.seen(service_id)
        return seen if seen is not None and self._is_alive(seen) else None

    def refusal(self, service_id: str) -> str:
        """Why a supervisor ended at once: its port is another program's; '' for none. Told once."""
        process = self._process(service_id)
        if process is None or self._exit_code(process) != PORT_TAKEN:
            return ""
        self._reap(service_id)
        try:
            return (self.folder(service_id) / REFUSED_FILE).read_text("utf-8")
        except OSError:
            return "its port is taken"

    def say(self, service_id: str, sentence: str) -> None:
        """A line in the service's log, if the disk has room for it."""
        folder = self.folder(service_id)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.log_file(service_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "wb", buffering=0) as file:
                file.write(log_line(sentence))

    def end(self, service_id: str) -> bool:
        """End a service's processes and remove its folder; True once nothing is left. Blocks for some seconds."""
        seen = self.seen(service_id)
        if seen is not None and self._is_alive(seen):
            os.kill(seen.pid, signal.SIGTERM)
            self._wait_for_end(service_id, seen, END_S)
            if self._is_alive(seen):
                # Its children end with it: each asked the kernel for that, or watches its socket.
                os.kill(seen.pid, signal.SIGKILL)
                self._wait_for_end(service_id, seen, KILLED_S)
        # Also one that has not said yet who it is, and one that was killed just now.
        self._drop_started(service_id)
        shutil.rmtree(self.folder(service_id), ignore_errors=True)
        return not self.folder(service_id).exists()

    def _wait_for_end(self, service_id: str, seen: Seen, most_s: float) -> None:
        until = time.monotonic() + most_s
        while self._is_alive(seen) and time.monotonic() < until:
            self._reap(service_id)
            time.sleep(0.01)

    def _process(self, service_id: str) -> "Optional[subprocess.Popen[bytes]]":
        found = self._started.get(service_id)
        return None if found is None else found[0]

    def _drop_started(self, service_id: str) -> None:
        """End what this server has started for it, at once, and wait for that."""
        process = self._process(service_id)
        if process is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
            self._reap(service_id)

    def _reap(self, service_id: str) -> None:
        process = self._process(service_id)
        if process is not None and self._exit_code(process) is not None:
            with self._lock:
                del self._started[service_id]

    def _exit_code(self, process: "subprocess.Popen[bytes]") -> Optional[int]:
        """None while it runs. One thread at a time: to a second one that asks, the first one's dead seem to live."""
        with self._lock:
            return process.poll()

    def _is_alive(self, seen: Seen) -> bool:
        with self._lock:
            for process, _ in self._started.values():
                process.poll()
        return is_alive({"pid": seen.pid, "start_time": seen.start_time, "boot_id": seen.boot_id})

    def _start(self, service_id: str, folder: Path) -> None:
        (folder / REFUSED_FILE).unlink(missing_ok=True)
        with open(os.open(self.log_file(service_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            spare, self._spare = self._spare, None
            process = None if spare is None else spare.take(folder, log.fileno())
            process = process or subprocess.Popen(
                [sys.executable, "-m", "runyard.serving", str(folder)], env=supervisor_variables(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            with self._lock:
                self._started[service_id] = (process, time.monotonic())
