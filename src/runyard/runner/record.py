"""What an attempt leaves behind, on its way to the server: logs and metrics while they grow, then every file."""

import os
import threading
import time
from concurrent.futures import Future, TimeoutError
from typing import Any, Callable, Dict, Optional, Set, Tuple, TypeVar, Union

from runyard.client.http import Server
from runyard.client.shipper import LogShipper, MetricsShipper
from runyard.errors import (
    AuthenticationException,
    ConflictError,
    NotFoundError,
    RunyardError,
    ServiceException,
    StorageFullError,
    UserErrorException,
)
from runyard.files.layout import DISK_FULL
from runyard.protocol.plan import ReportKind
from runyard.protocol.runs import Artifact
from runyard.protocol.words import counted, is_or_are
from runyard.runner.destinations import Destinations
from runyard.runner.folder import AttemptFolder
from runyard.runner.meeting import NodeReporter
from runyard.runner.outputs import Outputs
from runyard.runner.report import STALE, Reporter, ask

T = TypeVar("T")

#: How often a sign of life is given, seconds.
HEARTBEAT_S = 5.0


class Record:
    """The record of one attempt."""

    def __init__(self, folder: AttemptFolder, server: Server, reporter: Union[Reporter, NodeReporter]) -> None:
        self._folder = folder
        self._reporter = reporter
        plan = folder.plan
        names: Dict[str, Any] = {"workspace": plan.workspace, "run_id": plan.run_id}
        self._metrics = MetricsShipper(
            str(folder.spool), plan.attempt, lambda body: server.call("add_metrics", body, **names).sequence
        )
        self._logs = LogShipper(
            lambda name, offset, data: (
                server.call("append_log", data, {"offset": offset, "attempt": plan.attempt}, path=name, **names).offset
            )
        )
        self._outputs = Outputs(folder, server)
        self._destinations = Destinations(folder, server)
        self._storing: Optional[Future[Any]] = None
        #: Logs that cannot be followed.
        self._unsent: Set[str] = set()
        self._told: Set[str] = set()

    def restore(self) -> None:
        """Bring back what an earlier attempt of the run has stored of ./outputs."""
        if self._folder.plan.attempt > 1:
            count = self._outputs.restore()
            files = f"{counted(count, 'file')} of ./outputs {is_or_are(count)} back"
            self._folder.note(f"Attempt {self._folder.plan.attempt}: {files}.")

    def ship(self) -> None:
        """Send what is new in logs and metrics."""
        (name, path), *others = self._outputs.own_logs()
        self._logs.ship(name, path)
        for name, path in others:
            if name not in self._unsent:
                self._ship_log(name, path)
        for name, handle in self._outputs.logs():
            if name not in self._unsent:
                self._ship_log(name, handle)
        self._metrics.ship()

    def sync(self) -> None:
        """Hand the metrics to the disk."""
        self._metrics.sync()

    def ship_outputs(self) -> None:
        """Begin to store what the script has finished writing, beside the watch over it; says how the last try failed.

        A file of some gigabytes takes seconds, and nobody waits for it: neither the log nor a cancel.
        """
        if self._storing is None:
            self._storing = _beside(self._outputs.ship_changed)
        elif self._storing.done():
            done, self._storing = self._storing, None
            done.result()

    def is_small(self) -> bool:
        """Will the record be stored so soon that the script's end need not be told before?"""
        return self._storing is None and not self._destinations.has_any() and self._outputs.is_small()

    def store(self, is_small: bool) -> Tuple[str, Tuple[Artifact, ...]]:
        """Store the record; returns '' or why it is not complete, and what the last report has to record.

        A full disk is waited for, and said. ``is_small``: it is stored within some milliseconds, so no sign of life is
        given meanwhile.
        """
        if self._storing is not None:
            self._await(self._storing)
        pause_s, told = 0.5, False
        while True:
            try:
                if is_small:
                    artifacts = ask(self._store, STALE)
                else:
                    artifacts = ask(lambda: self._await(_beside(self._store)).result(), STALE)
                failures = " ".join(self._destinations.failures)
                return failures and f"Its outputs could not be stored: {failures}", artifacts
            except (ServiceException, OSError) as error:
                is_full = isinstance(error, StorageFullError) or getattr(error, "errno", None) in DISK_FULL
                if not is_full and not isinstance(error, ServiceException):
                    return f"Its outputs could not be stored: {error}", ()
                if is_full and not told:
                    self._reporter.add(ReportKind.PREPARING, f"Its outputs wait for space on the disk: {error}")
                    told = self._reporter.try_send()
                self._tell_progress()
            except RunyardError as error:
                return f"Its outputs could not be stored: {error}", ()
            time.sleep(pause_s)
            pause_s = min(5.0, pause_s * 1.5)

    def _store(self) -> Tuple[Artifact, ...]:
        exited = self._reporter.find(ReportKind.EXITED)
        if exited is not None:
            self._destinations.store(exited)
        rest = self._outputs.store_files()
        self._tell_losses()
        return rest + self._outputs.store_log()

    def _await(self, work: "Future[T]") -> "Future[T]":
        """Wait for work beside this thread, giving signs of life."""
        while True:
            try:
                work.exception(HEARTBEAT_S)
                return work
            except TimeoutError:
                self._reporter.try_send()
                self._tell_progress()

    def _tell_progress(self) -> None:
        progress, self._destinations.progress = self._destinations.progress, ""
        if progress:
            self._reporter.add(ReportKind.PREPARING, progress)
            self._reporter.try_send()

    def _ship_log(self, name: str, path: Union[str, int]) -> None:
        """One of the script's own logs. One that the server refuses is not followed; it is stored at the end."""
        try:
            self._logs.ship(name, path)
        except (UserErrorException, OSError) as error:
            if isinstance(error, (ConflictError, NotFoundError, AuthenticationException)):
                raise
            self._unsent.add(name)
            self._folder.say(f"{name} is not followed any more: {error}")

    def _tell_losses(self) -> None:
        """Say in the run's own log where its outputs are and what its record lacks, each once."""
        losses = [*self._destinations.notices, *self._outputs.notices]
        for writer, offset in self._metrics.damaged.items():
            losses.append(f"The metrics of writer {writer} are damaged after {offset} bytes; what follows is lost.")
        for why in self._metrics.refused.values():
            losses.append(f"Metrics were refused: {why}")
        untold = [loss for loss in dict.fromkeys(losses) if loss not in self._told]
        path = str(self._folder.log)
        if not untold and os.path.exists(path):
            return
        with open(path, "a", encoding="utf-8", errors="replace") as log:
            for loss in untold:
                self._told.add(loss)
                log.write(f"Runyard: {loss}\n")


def _beside(do: Callable[[], T]) -> "Future[T]":
    """Carry something out in a thread of its own."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(do())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
