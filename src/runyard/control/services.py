"""Moves services: each is prepared beside the loop, handed to its supervisor, and shown as that sees it."""

import hashlib
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Optional, Sequence, Set, Tuple

from sqlalchemy import Connection, Row

from runyard.compute.service_host import ServiceHost
from runyard.control.builds import Builds
from runyard.control.complaints import Complaints
from runyard.control.old_revisions import OldRevisions
from runyard.control.service_plan import ServingFacts
from runyard.control.service_preparation import Preparation, has_program, is_whole
from runyard.control.service_runs import ServiceRuns, shown_replicas
from runyard.db import models, services
from runyard.db.engine import Database
from runyard.errors import AzureMLException
from runyard.protocol.services import (
    REVISION_FILE,
    Access,
    ReplicaPlan,
    Revision,
    Seen,
    Service,
    ServiceSpec,
    ServiceState,
    Wanted,
    scoring_path,
)
from runyard.protocol.wire import dumps, loads
from runyard.storage.base import ArtifactStore
from runyard.storage.vault import Vault

#: Between two looks when no bell rings, seconds; and while a service moves, at first, where most are there soon. From
#: then on the pause grows by that factor, up to the first: some load their model for minutes.
TICK_S, MOVING_S, QUICK_S, GROWTH = 1.0, 0.02, 1.0, 1.2
#: The same while there is no service at all, seconds.
IDLE_S = 10.0
#: How long a supervisor may speak of a revision still after it was told another, seconds.
HEARD_S = 5.0
#: Between two looks whether what a service that is well relies on is still there, seconds.
RENEW_S = 60.0
#: Services that are prepared at once.
PREPARED_AT_ONCE = 2

_log = logging.getLogger("runyard.services")


class Services(threading.Thread):
    """All services of one server: beside what a request asks for, the only writer of their states."""

    def __init__(
        self, database: Database, host: ServiceHost, builds: Builds, store: ArtifactStore, vault: Vault,
        kit: Callable[[], str], facts: ServingFacts, on_run: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``on_run`` hears of each run that was submitted, or is to end, as a replica on a cluster."""
        super().__init__(name="services", daemon=True)
        self._database, self._host, self._vault, self.facts = database, host, vault, facts
        self._runs, self._old = ServiceRuns(database, host, on_run), OldRevisions(database, host)
        self._preparation = Preparation(
            database, host, builds, store, kit, facts, lambda row, reason: self._set(row, reason=reason),
            lambda service_id: not self._is_stopping and service_id not in self._deleted,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(PREPARED_AT_ONCE, thread_name_prefix="service")
        self._preparing: Dict[Tuple[str, int], Future[Revision]] = {}
        #: What each supervisor was told, and when; and which revision this server has tried to bring about.
        self._told: Dict[str, Tuple[Wanted, float]] = {}
        self._tried: Dict[str, int] = {}
        self._complaints = Complaints()
        #: When it was looked whether a revision has what it relies on, and which one was made anew for lack of that.
        self._renewed_at: Dict[str, float] = {}
        self._renewed: Dict[str, int] = {}
        #: Those that are to go as soon as nobody prepares them any more.
        self._deleted: Set[str] = set()
        self._has_any = True
        self._bell = threading.Event()
        self._is_stopping = False

    def ring(self) -> None:
        """Look soon."""
        self._bell.set()

    def stop(self) -> None:
        """End after the present round; the services go on."""
        self._is_stopping = True
        self.ring()
        if self.is_alive():
            self.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._host.close()

    def run(self) -> None:
        pause_s, quick_until, is_moving = TICK_S, 0.0, False
        while not self._is_stopping:
            is_rung = self._bell.wait(pause_s)
            self._bell.clear()
            was_moving, is_moving, now = is_moving, self._look(), time.monotonic()
            if is_rung or not was_moving:
                quick_until = now + QUICK_S
            if not is_moving:
                pause_s = TICK_S if self._has_any else IDLE_S
            else:
                pause_s = MOVING_S if now < quick_until else min(TICK_S, pause_s * GROWTH)

    def _look(self) -> bool:
        """One round, and what is to be done beside it; does a service move?"""
        try:
            is_moving = self.round()
            if not is_moving:
                self._tend_host()
        except Exception as error:  # noqa: BLE001 - one round's failure must not end the services' state for ever
            if self._complaints.is_new("round", error):
                _log.exception("a look at the services failed; the next one comes in a second")
            return False
        return is_moving

    def round(self) -> bool:
        """Look at every service once; does one of them move?"""
        with self._database.read() as connection:
            rows, replicas = services.list_rows(connection), services.list_replicas(connection)
        is_moving, self._has_any = False, bool(rows)
        for row in rows:
            is_well = self._look_after(row, [one for one in replicas if one.service == row.id])
            is_moving = is_moving or (is_well and _is_moving(row, self._preparing))
        return is_moving

    def _look_after(self, row: Row[Any], replicas: Sequence[Row[Any]]) -> bool:
        """Take one service a step further; False where that went wrong, and is tried again without haste."""
        try:
            try:
                self._advance(row, replicas)
            except AzureMLException as error:
                self._set(row, state=ServiceState.FAILED, error=str(error), reason="")
        except Exception as error:  # noqa: BLE001 - one service's trouble, as a full disk, is no other's
            if self._complaints.is_new(row.id, error):
                _log.exception("service %s cannot be looked after; tried again", row.name)
            return False
        return True

    def _tend_host(self) -> None:
        try:
            self._host.tend()
        except AzureMLException as error:
            if self._complaints.is_new("host", error):
                _log.warning("%s", error)

    def shown(self, row: Row[Any]) -> Service:
        """A service with what its supervisor says at this moment."""
        service, seen = services.to_service(row), self._host.watch(row.id)
        port = seen.port if seen is not None else row.port
        if port:
            base = f"{self.facts.base}:{port}"
            model = service.spec.models[0].rpartition(":")[0] if service.spec.models else ""
            scoring = base + scoring_path(self._framework(row), model)
            service = replace(service, scoring_uri=scoring, swagger_uri=base + "/swagger.json")
        service = replace(service, access=self._access(service.spec))
        with self._database.read() as connection:
            service = replace(service, replica_runs=shown_replicas(services.list_replicas(connection, row.id), seen))
        if seen is None:
            return service
        return replace(service, replicas=seen.replicas, statistics=seen.statistics)

    def replica_plan(self, workspace: str, run_id: str) -> ReplicaPlan:
        """What a run is told that is a replica on a cluster; NotFoundError where no service has it, or wants it."""
        return self._runs.plan_of(workspace, run_id, self.keys_of, bool(self.facts.certificate))

    def keys_of(self, row: Row[Any]) -> Dict[str, str]:
        """Its keys: primary, secondary, and that of its tokens."""
        return self._vault.unlock(row.secret)

    def is_listening(self, row: Row[Any]) -> bool:
        """Has it a supervisor, and with that its port?"""
        return self._host.watch(row.id) is not None

    def log_of(self, row: Row[Any], most: int) -> bytes:
        """What its processes have said last, so many bytes at most."""
        try:
            with open(self._host.log_file(row.id), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - most))
                return file.read(most)
        except OSError:
            return b""

    # One service.

    def _advance(self, row: Row[Any], replicas: Sequence[Row[Any]]) -> None:
        now = time.time_ns() // 1000
        if row.state == ServiceState.DELETING:
            self._clear(row, self._runs.end(row, replicas, now))
            return
        folder, seen = self._host.revision_folder(row.id, row.revision), self._host.watch(row.id)
        self._runs.advance(row, replicas, seen, now)
        if row.state == ServiceState.FAILED and (seen is None or not (folder / REVISION_FILE).exists()):
            if self._tried.get(row.id) == row.revision or row.good_revision != row.revision:
                return  # Until somebody asks for another revision.
            # It has answered once: what kept it from that may be gone since the last server, as a disk that came late.
            self._set(row, state=ServiceState.TRANSITIONING, error="")
        self._tried[row.id] = row.revision
        if not self._is_prepared(row, folder, seen):
            return
        failure, room = self._runs.failure(row, replicas), self._runs.room(row, replicas, seen, now)
        failed = row.revision if failure else 0
        wanted = replace(self._wanted(row), failed_revision=failed, failure=failure, room=room)
        told = self._told.get(row.id)
        if seen is None or told is None or told[0] != wanted:
            if self._give_port_up(row):
                return
            # One that has ended since it was seen is started by the next round, which looks first what is there.
            self._host.tell(row.id, wanted, may_start=seen is None)
            is_same = told is not None and told[0].revision == wanted.revision
            self._told[row.id] = (wanted, told[1] if told is not None and is_same else time.monotonic())
        if seen is not None:
            self._note(row, seen, self._runs.reason(row, replicas, seen))
            self._renew(row, folder, seen)
            if all(work.done() for one, work in self._preparing.items() if one[0] == row.id):
                self._old.tidy(row, replicas, seen, time.monotonic())

    def _renew(self, row: Row[Any], folder: Path, seen: Seen) -> None:
        """Make a revision anew, beside the one that answers, before a next front misses what that one has open."""
        now, then = time.monotonic(), self._renewed_at.get(row.id, 0.0)
        is_well = seen.state == ServiceState.HEALTHY
        if seen.revision != row.revision or row.state == ServiceState.FAILED or (is_well and now - then < RENEW_S):
            return
        self._renewed_at[row.id] = now
        if has_program(folder) or self._renewed.get(row.id) == row.revision:
            return
        self._renewed[row.id] = row.revision  # Once: where that cannot be, the one that answers is left alone.
        self._host.say(row.id, "its compiled model is gone from the cache: the model is prepared anew")
        now_us = time.time_ns() // 1000

        def change(connection: Connection, present: Row[Any]) -> None:
            services.add_revision(connection, present, loads(ServiceSpec, present.spec), row.created_by, now_us)

        self._write(row, change)
        self.ring()

    def _is_prepared(self, row: Row[Any], folder: Path, seen: Optional[Seen]) -> bool:
        """Is all there that its processes need? Otherwise it is prepared, beside this thread."""
        key = (row.id, row.revision)
        work = self._preparing.get(key)
        if work is None:
            if (folder / REVISION_FILE).exists() and (self._is_at_work(row, seen) or is_whole(folder)):
                return True
            for old in [one for one in self._preparing if one[0] == row.id]:
                if self._preparing[old].cancel() or self._preparing[old].done():
                    del self._preparing[old]
            self._preparing[key] = self._pool.submit(self._preparation.prepared, row)
            if seen is None:
                self._host.expect()
                self._tend_host()
            self._preparing[key].add_done_callback(lambda _: self.ring())
            return False
        if not work.done():
            return False
        del self._preparing[key]
        error = work.exception()
        if error is None:
            return (folder / REVISION_FILE).exists()  # Else it was removed: the next round begins anew.
        if not isinstance(error, AzureMLException):
            _log.error("service %s could not be prepared", row.name, exc_info=error)
        self._host.say(row.id, f"revision {row.revision} cannot be prepared: {error}")
        self._fail(row, str(error))
        return False

    def _is_at_work(self, row: Row[Any], seen: Optional[Seen]) -> bool:
        """Has its supervisor this very revision, so that its files are left alone?"""
        told = self._told.get(row.id)
        if seen is None:
            return self._host.is_starting(row.id)
        return seen.revision == row.revision or told is None or told[0].revision == row.revision

    def _fail(self, row: Row[Any], error: str) -> None:
        """What nothing goes on in place of is the service's failure; a later revision leaves the one before it."""
        if row.good_revision in (0, row.revision):
            self._set(row, state=ServiceState.FAILED, error=error, reason="", serving_revision=0)
            return
        with self._database.read() as connection:
            known = {one.number: one.spec for one in services.list_revisions(connection, row.id)}
        spec = known[row.good_revision]
        self._set(row, revision=row.good_revision, spec=dumps(spec), error=f"Revision {row.revision} failed: {error}",
                  reason="")  # fmt: skip

    def _note(self, row: Row[Any], seen: Seen, waits_for: str) -> None:
        """Let the row say what the supervisor sees, and what the replicas of a cluster wait for."""
        values: Dict[str, Any] = {}
        if seen.port != row.port:
            values["port"] = seen.port
        if seen.failed_revision == row.revision and seen.revision != row.revision:
            self._fail(row, seen.error)
            return
        state = seen.state
        if state == ServiceState.FAILED:
            # It speaks of an earlier revision, and may not have read yet that there is another.
            told = self._told.get(row.id)
            if told is not None and time.monotonic() - told[1] < HEARD_S:
                state = ServiceState.TRANSITIONING
            else:
                values["error"] = seen.error
        if state == ServiceState.UNHEALTHY and seen.revision != row.revision:
            state = ServiceState.TRANSITIONING  # The next one may be well, and is waited for.
        if seen.revision:
            values["serving_revision"] = seen.revision
            if seen.revision == row.revision:
                values.update(good_revision=row.revision, reason="")
                if (row.good_revision, row.serving_revision) != (row.revision, row.revision):
                    values["how"] = self._preparation.how(row)
        if state == ServiceState.TRANSITIONING or (waits_for and seen.revision != row.revision):
            values["reason"] = waits_for or "The model is being loaded."
        elif waits_for and state == ServiceState.UNHEALTHY:
            values["reason"] = waits_for
        self._set(row, **values, state=state)

    def _set(self, row: Row[Any], **values: Any) -> None:
        """Change a row where something is new; one that is being deleted stays that."""
        new = {name: value for name, value in values.items() if getattr(row, name) != value}
        if not new:
            return
        now = time.time_ns() // 1000
        self._write(row, lambda connection, _: services.change(connection, row.id, now, **new))

    def _write(self, row: Row[Any], change: Callable[[Connection, Row[Any]], None]) -> None:
        """Change a service, unless it has another revision by now, or is being deleted."""

        def write(connection: Connection) -> None:
            present = services.find_row(connection, row.workspace, row.name)
            is_same = present is not None and (present.id, present.revision) == (row.id, row.revision)
            if is_same and present is not None and present.state != ServiceState.DELETING:
                change(connection, present)

        self._database.write(write)

    def _clear(self, row: Row[Any], has_no_runs: bool) -> None:
        self._deleted.add(row.id)
        working = [one for key, one in self._preparing.items() if key[0] == row.id]
        if not all(one.cancel() or one.done() for one in working):
            return  # Its folder can go once nobody writes there any more.
        for key in [one for one in self._preparing if one[0] == row.id]:
            del self._preparing[key]
        if self._host.end(row.id) and has_no_runs:
            self._deleted.discard(row.id)
            for one in (self._told, self._tried, self._renewed_at, self._renewed):
                one.pop(row.id, None)
            self._old.forget(row.id)
            self._database.write(lambda connection: services.remove(connection, row.id))

    def _give_port_up(self, row: Row[Any]) -> bool:
        """Was its port another program's? One that was asked for fails; any other is given up for a free one."""
        why = self._host.refusal(row.id)
        if not why:
            return False
        spec = loads(ServiceSpec, row.spec)
        if spec.deployment.port:
            self._told.pop(row.id, None)
            self._set(
                row, state=ServiceState.FAILED, error=f"Port {spec.deployment.port} cannot be listened on: {why}."
            )
            return True
        self._set(row, port=0)
        return bool(row.port)

    def _access(self, spec: ServiceSpec) -> str:
        """What was asked for, else open on this machine alone and by key beyond it."""
        return spec.deployment.access or (Access.OPEN if self.facts.is_loopback else Access.KEY)

    def _wanted(self, row: Row[Any]) -> Wanted:
        spec, keys, facts = loads(ServiceSpec, row.spec), self.keys_of(row), self.facts
        access = self._access(spec)
        lets_in = () if access == Access.TOKEN else ("primary", "secondary")
        digests = tuple(hashlib.sha256(keys[name].encode()).hexdigest() for name in lets_in)
        last_good = row.good_revision
        if last_good not in (0, row.revision):
            # What is not whole would keep its supervisor from the next one.
            good = self._host.revision_folder(row.id, last_good)
            last_good = last_good if (good / REVISION_FILE).exists() and is_whole(good) else 0
        return Wanted(
            revision=row.revision, last_good=last_good, host=facts.host, port=row.port,
            access=access, keys=digests, token_key=keys["token_key"], certificate=facts.certificate,
            certificate_key=facts.certificate_key,
        )  # fmt: skip

    def _framework(self, row: Row[Any]) -> str:
        spec = loads(ServiceSpec, row.spec)
        if spec.entry is not None or not spec.models:
            return "Custom"
        with self._database.read() as connection:
            name, _, version = spec.models[0].rpartition(":")
            try:
                return models.get_model(connection, row.workspace, name, int(version)).framework
            except AzureMLException:
                return "Custom"  # It was deleted; the service has its own copy.


def _is_moving(row: Row[Any], preparing: Collection[Tuple[str, int]]) -> bool:
    """Will there be something new in a moment? What a cluster does takes seconds at least."""
    if loads(ServiceSpec, row.spec).deployment.target and (row.id, row.revision) not in preparing:
        return False
    if row.state in (ServiceState.TRANSITIONING, ServiceState.DELETING):
        return True
    return bool(row.serving_revision != row.revision) and row.state != ServiceState.FAILED
