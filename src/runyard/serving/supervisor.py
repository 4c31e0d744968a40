"""One service's supervisor: holds its listening socket, brings about what is wanted of it, and says what it sees.

It outlives the server, which tells it what to do by a file (``wanted.json``) and a signal, and reads ``seen.json``.
"""

import errno
import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional, Tuple

from runyard.files.layout import write_atomically
from runyard.files.processes import identity
from runyard.protocol.services import (
    LOG_FILE,
    REVISION_FILE,
    SEEN_FILE,
    WANTED_FILE,
    Revision,
    Seen,
    ServiceState,
    ServiceStatistics,
    Wanted,
    log_line,
)
from runyard.protocol.wire import dumps, loads
from runyard.serving.front_process import FrontProcess
from runyard.serving.group import Group
from runyard.serving.refusals import Refusals

#: Between two looks when nothing happens, seconds.
STEP_S = 0.25
#: Between two looks at what its processes take, seconds.
LOOK_S = 2.0
#: How long a port is waited for: the processes of a supervisor that was killed have it for a moment more, seconds.
PORT_S = 3.0
#: A supervisor that has begun less than this ago does not begin anew, seconds.
ANEW_S = 5.0
#: The log is cut to its last part above this, bytes.
LOG_MAX, LOG_KEPT = 16 << 20, 4 << 20


class PortTakenError(Exception):
    """Another program listens where the service should."""


class Supervisor:
    """One service."""

    def __init__(self, folder: Path, spare: Optional[FrontProcess] = None) -> None:
        """``spare``: a front that was started already, for the first revision."""
        self._folder, self._spare = folder, spare
        self._me = identity(os.getpid())
        self._wanted: Optional[Wanted] = None
        self._listener: Optional[socket.socket] = None
        self._address = ("", False)
        #: The group that answers, the one that is to, and those that finish their last requests.
        self._serving: Optional[Group] = None
        self._coming: Optional[Group] = None
        self._leaving: List[Group] = []
        self._failed, self._error = 0, ""
        #: Answers while nothing else does, and nothing is to.
        self._refusals: Optional[Refusals] = None
        self._log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_ending = False
        #: Is it to be started once more, as another program or at another address? Not again and again.
        self.begins_anew, self._began = False, time.monotonic()
        #: What was read and said last, as text.
        self._read, self._seen = "", ""
        self._bell, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.set_wakeup_fd(bell)
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> int:
        """Until TERM, or until ``begins_anew``; returns the exit code."""
        looked = 0.0
        while not self._is_ending:
            self._read_wanted()
            now = time.monotonic()
            for group in self._groups():
                group.step(now)
            self._advance()
            if any(group.is_outdated for group in self._groups()):
                self._begin_anew("Runyard was upgraded")
            if self._wanted is not None and _address(self._wanted) != self._address:
                self._begin_anew("its address is another")
            if now - looked >= LOOK_S:
                looked = now
                for group in self._groups():
                    group.look_closer(now)
                self._cut_log()
                # A home that was removed takes its services along.
                self._is_ending = self._is_ending or not self._folder.exists()
            self._refuse()
            self._say()
            self._wait()
        for group in self._groups():
            group.end()
        for group in self._groups():
            group.wait()
            group.close()
        if self.begins_anew:
            self._serving = self._coming = None
            self._say()
        return 0

    def _begin_anew(self, why: str) -> None:
        if time.monotonic() - self._began > ANEW_S:
            with suppress(OSError):
                os.write(self._log, log_line(f"{why}: all of the service's processes begin anew"))
            self.begins_anew = self._is_ending = True

    def _end(self, *_: Any) -> None:
        self._is_ending, self.begins_anew = True, False

    def _groups(self) -> List[Group]:
        return [one for one in (self._serving, self._coming, *self._leaving) if one is not None]

    def _read_wanted(self) -> None:
        try:
            text = (self._folder / WANTED_FILE).read_text("utf-8")
        except OSError:
            return
        if text == self._read:
            return
        self._read, wanted = text, loads(Wanted, text)
        before, self._wanted = self._wanted, wanted
        if self._listener is None:
            self._listener, self._address = _listen(wanted.host, wanted.port), _address(wanted)
        for group in self._groups():
            group.set_access(wanted)
        if self._serving is not None:
            self._serving.set_room(wanted.room)
        if self._coming is not None:
            _tell_failure(self._coming, wanted)
        if before is None and wanted.last_good and wanted.last_good != wanted.revision:
            self._coming = self._group(wanted.last_good)
        elif before is None or before.revision != wanted.revision:
            self._replace_coming(wanted.revision)

    def _replace_coming(self, number: int) -> None:
        if self._coming is not None:
            self._coming.end()
            self._leaving.append(self._coming)
            self._coming = None
        # The one that answers is wanted again where its successor has failed.
        if self._serving is None or self._serving.revision.number != number:
            self._coming = self._group(number)

    def _group(self, number: int) -> Optional[Group]:
        folder = self._folder / "revisions" / str(number)
        if self._wanted is None or self._listener is None:
            return None
        revision = _placed(folder, loads(Revision, (folder / REVISION_FILE).read_text("utf-8")))
        spare, self._spare = self._spare, None
        group = Group(folder, revision, self._wanted, self._listener, self._log, spare)
        _tell_failure(group, self._wanted)
        return group

    def _advance(self) -> None:
        """From one revision to the next: the old one answers until the new one can."""
        coming, wanted = self._coming, self._wanted
        if coming is not None and wanted is not None:
            if coming.is_ready:
                coming.say(f"revision {coming.revision.number} answers from now on")
                coming.accept()
                if self._serving is not None:
                    self._serving.leave()
                    self._leaving.append(self._serving)
                self._serving, self._coming = coming, None
                if coming.revision.number == wanted.revision:
                    self._failed, self._error = 0, ""
                else:
                    self._replace_coming(wanted.revision)
            elif coming.failure:
                self._failed, self._error = coming.revision.number, coming.failure
                coming.say(f"revision {self._failed} failed" + (", the one before it goes on" if self._serving else ""))
                coming.end()
                self._leaving.append(coming)
                self._coming = None
                if self._serving is None and coming.revision.number != wanted.revision:
                    # What was good cannot be loaded any more, and the next one has not been tried yet.
                    self._coming = self._group(wanted.revision)
        for group in [one for one in self._leaving if one.is_gone]:
            group.close()
            self._leaving.remove(group)

    def _refuse(self) -> None:
        """Callers of a service that has failed would wait for ever."""
        has_failed = self._serving is None and self._coming is None and bool(self._failed)
        if has_failed and self._refusals is None and self._listener is not None:
            self._refusals = Refusals(self._listener, bool(self._wanted and self._wanted.certificate))
        elif not has_failed and self._refusals is not None:
            self._refusals.close()
            self._refusals = None
        if self._refusals is not None:
            self._refusals.read()

    def _say(self) -> None:
        """What control reads."""
        if self._listener is None:
            return
        serving = self._serving
        me = self._me
        if serving is not None:
            state = ServiceState.HEALTHY if serving.is_ready else ServiceState.UNHEALTHY
        else:
            state = ServiceState.FAILED if self._failed and self._coming is None else ServiceState.TRANSITIONING
        seen = Seen(
            me["pid"], me["start_time"], me["boot_id"], state, self._listener.getsockname()[1],
            serving.revision.number if serving else 0, serving.ready_count if serving else 0,
            self._failed, self._error, serving.measured if serving else ServiceStatistics(),
            tuple(one.joined for one in self._groups() if one.joined is not None),
        )  # fmt: skip
        text = dumps(seen)
        if text != self._seen:
            try:
                write_atomically(self._folder / SEEN_FILE, text.encode(), mode=0o600)
                self._seen = text
            except OSError:
                pass  # A full disk stops no answers; it is said again at the next look.

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            for group in self._groups():
                for line in group.sockets():
                    selector.register(line, selectors.EVENT_READ, group)
            for line in [] if self._refusals is None else self._refusals.sockets():
                selector.register(line, selectors.EVENT_READ, self._refusals)
            found = selector.select(STEP_S)
        for key, _ in found:
            if key.data is None:
                os.read(self._bell, 4096)
            else:
                key.data.read()

    def _cut_log(self) -> None:
        """Processes append to the file, so that it may be cut while they write."""
        path = self._folder / LOG_FILE
        try:
            size = path.stat().st_size
            if size > LOG_MAX:
                with open(path, "rb") as file:
                    file.seek(size - LOG_KEPT)
                    kept = file.read().partition(b"\n")[2]
                (self._folder / "log.1.txt").write_bytes(kept)
                os.truncate(path, 0)
        except OSError:
            pass


def _address(wanted: Wanted) -> Tuple[str, bool]:
    """Where its socket is, and whether it speaks TLS: neither changes while it lives."""
    return wanted.host, bool(wanted.certificate)


def _tell_failure(group: Group, wanted: Wanted) -> None:
    """Runs of a cluster fail before they come here: control knows."""
    if wanted.failed_revision == group.revision.number and not group.is_ready:
        group.failure = group.failure or wanted.failure


def _placed(folder: Path, revision: Revision) -> Revision:
    """A package's paths are relative: it may lie anywhere."""
    if os.path.isabs(revision.work):
        return revision
    places = ("entry_script", "model")
    scoring = {name: str(folder / text) if name in places else text for name, text in revision.scoring.items()}
    work = folder / revision.work
    kit = str(folder / "kit")
    variables = {
        name: text.replace("{app}", str(work)).replace("{kit}", kit) for name, text in revision.variables.items()
    }
    return replace(revision, work=str(work), scoring=scoring, variables=variables)


def _listen(host: str, port: int) -> socket.socket:
    """The service's socket, for as long as it lives; PortTakenError where it cannot be had."""
    until = time.monotonic() + PORT_S
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise PortTakenError(error.strerror or str(error)) from None
        time.sleep(0.05)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)
    except OSError:
        listener.close()
        raise
    return listener
