"""What the runner tells the server: numbered, on disk before it is sent, sent until it is acknowledged."""

import os
import time
from typing import Any, List, Optional, Tuple, Type

from runyard.client.http import Server
from runyard.errors import (
    AuthenticationException,
    ConflictError,
    EnvironmentBuildError,
    NotFoundError,
    RunyardError,
    ServiceException,
    StorageFullError,
)
from runyard.files.layout import DISK_FULL, write_atomically
from runyard.protocol.plan import Report, ReportBatch
from runyard.protocol.wire import dumps, loads
from runyard.runner.fence import clock
from runyard.runner.folder import AttemptFolder

#: Pauses between tries while the server is away: from the first to the last, seconds.
RETRY_FIRST_S, RETRY_LAST_S = 0.1, 5.0
#: How the server says that another attempt has taken over; and, for requests about the run itself, that it is gone.
STALE = (ConflictError, AuthenticationException)
OVER = (*STALE, NotFoundError)


class Superseded(Exception):
    """The server does not want this attempt any more: stop its processes and say nothing."""


class Reporter:
    """The reports of one attempt."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._reports: List[Report] = _read(folder)
        self._kept = len(self._reports)
        #: Must the file be written anew? Its last line may be torn.
        self._is_torn = self._kept > 0
        self._acknowledged = 0
        #: The user wants the run to end.
        self.cancel_requested = False
        #: When the last request that the server has answered was sent, by the fence's clock.
        self.heard_at = clock()

    def find(self, kind: str) -> Optional[Report]:
        """The report of that kind, if it was made already (by a runner that is gone)."""
        return next((report for report in self._reports if report.kind == kind), None)

    def add(self, kind: str, message: str = "", **details: Any) -> None:
        """Make a report; ``send`` brings it to the server."""
        number = len(self._reports) + 1
        self._reports.append(Report(self._folder.plan.attempt, number, kind, message, at=_now_us(), **details))
        try:
            self._keep()
        except StorageFullError as error:
            self._folder.say(str(error))

    def replace_last(self, message: str, error_code: str) -> None:
        """Say the last report again without what the server refused; it was never acknowledged."""
        last = self._reports.pop()
        self._is_torn, self._kept = True, len(self._reports)
        self.add(last.kind, message, error_code=error_code)

    def send(self) -> None:
        """Send what is not acknowledged, or a sign of life. Raises ServiceException where the server is away."""
        self._keep()
        plan = self._folder.plan
        batch = ReportBatch(tuple(self._reports[self._acknowledged :]), _now_us(), plan.attempt)
        sent_at = clock()
        reply = ask(lambda: self._server.call("report", batch, workspace=plan.workspace, run_id=plan.run_id))
        self.heard_at = sent_at
        self._acknowledged = max(self._acknowledged, reply.acknowledged)
        self.cancel_requested = reply.cancel_requested

    def _keep(self) -> None:
        """Write down what is not on disk yet, before it is sent: a runner in this one's place must know its numbers."""
        if self._kept == len(self._reports):
            return
        try:
            if self._is_torn:
                write_atomically(self._folder.reports, _lines(self._reports).encode())
            else:
                self._is_torn = True
                with open(self._folder.reports, "a") as file:
                    file.write(_lines(self._reports[self._kept :]))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFullError("The node's disk is full, so a report waits; free some space.") from None
            raise
        self._is_torn, self._kept = False, len(self._reports)

    def try_send(self) -> bool:
        """As ``send``, but a server that is away is no error: it is tried again later."""
        try:
            self.send()
        except RunyardError as error:
            self._folder.say(f"not sent yet: {error}")
            return False
        return True


def ask(request: Any, over: Tuple[Type[Exception], ...] = OVER) -> Any:
    """The request's value; Superseded where the server says that this attempt or run is over."""
    try:
        return request()
    except over as error:
        raise Superseded(str(error)) from None


def insist(request: Any, say: Any) -> Any:
    """The request's value, however long the server is away or a disk is full, here or there."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return ask(request)
        except (ServiceException, OSError) as error:
            if isinstance(error, OSError) and error.errno not in DISK_FULL:
                raise
            say(f"tried again in {pause_s:.1f} s: {error}")
            time.sleep(pause_s)
            pause_s = min(RETRY_LAST_S, pause_s * 1.6)


def code_of(error: RunyardError) -> str:
    """How the report of an attempt that could not be prepared names what went wrong."""
    if isinstance(error, EnvironmentBuildError):
        return "EnvironmentError"
    return "StorageError" if isinstance(error, StorageFullError) else "DataError"


def _lines(reports: List[Report]) -> str:
    return "".join(dumps(one) + "\n" for one in reports)


def _now_us() -> int:
    return time.time_ns() // 1000


def _read(folder: AttemptFolder) -> List[Report]:
    """The reports on disk; a torn last line was never sent."""
    if not os.path.exists(str(folder.reports)):
        return []
    found = []
    for line in folder.reports.read_text().splitlines():
        try:
            found.append(loads(Report, line))
        except RunyardError:
            break
    return found
