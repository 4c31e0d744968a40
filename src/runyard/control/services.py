"""Moves services: each is prepared beside the loop, handed to its supervisor, and shown as that sees it."""

import hashlib
import logging
import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Callable, Collection, Dict, Sequence, Set, Tuple

from sqlalchemy import Connection, Row

from runyard.compute.service_host import ServiceHost
from runyard.control.builds import Builds
from runyard.control.service_plan import ServingFacts
from runyard.control.service_preparation import Preparation, is_whole
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

#: Between two looks when no bell rings, and how soon one follows while a service moves, seconds.
TICK_S, MOVING_S = 1.0, 0.02
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
        self._runs = ServiceRuns(database, host, on_run)
        self._preparation = Preparation(
            database, host, builds, store, kit, facts, lambda row, reason: self._set(row, reason=reason),
            lambda service_id: not self._is_stopping and service_id not in self._deleted,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(PREPARED_AT_ONCE, thread_name_prefix="service")
        self._preparing: Dict[Tuple[str, int], Future[Revision]] = {}
        self._told: Dict[str, Wanted] = {}
        #: Those that are to go as soon as nobody prepares them any more.
        self._deleted: Set[str] = set()
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
        is_moving = False
        while not self._is_stopping:
            self._bell.wait(MOVING_S if is_moving else TICK_S)
            self._bell.clear()
            try:
                is_moving = self.round()
            except Exception:  # noqa: BLE001 - one round's failure must not end the services' state for ever
                _log.exception("a look at the services failed; the next one comes in a second")
                is_moving = False
            if not is_moving:
                self._tend_host()

    def round(self) -> bool:
        """Look at every service once; does one of them move?"""
        with self._database.read() as connection:
            rows, replicas = services.list_rows(connection), services.list_replicas(connection)
        is_moving = False
        for row in rows:
            try:
                self._advance(row, [one for one in replicas if one.service == row.id])
            except AzureMLException as error:
                self._set(row, state=ServiceState.FAILED, error=str(error), reason="")
            except Exception:  # noqa: BLE001 - one service's trouble, as a full disk, is no other's
                _log.exception("service %s cannot be looked after; tried again", row.name)
            is_moving = is_moving or _is_moving(row, self._preparing)
        return is_moving

    def _tend_host(self) -> None:
        try:
            self._host.tend()
        except AzureMLException as error:
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
        key = (row.id, row.revision)
        folder, seen = self._host.revision_folder(row.id, row.revision), self._host.watch(row.id)
        self._runs.advance(row, replicas, seen, now)
        if row.state == ServiceState.FAILED and seen is None:
            return  # Until somebody asks for another revision.
        if not (folder / REVISION_FILE).exists():
            self._prepare(row, key)
            return
        self._preparing.pop(key, None)
        failure, room = self._runs.failure(row, replicas), self._runs.room(row, replicas, seen, now)
        failed = row.revision if failure else 0
        wanted = replace(self._wanted(row), failed_revision=failed, failure=failure, room=room)
        if seen is None and not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            self._prepare(row, key)
            return
        if seen is None or self._told.get(row.id) != wanted:
            if self._give_port_up(row):
                return
            self._host.tell(row.id, wanted)
            self._told[row.id] = wanted
        if seen is not None:
            self._note(row, seen, self._runs.reason(row, replicas, seen))

    def _prepare(self, row: Row[Any], key: Tuple[str, int]) -> None:
        work = self._preparing.get(key)
        if work is None:
            for old in [one for one in self._preparing if one[0] == row.id]:
                if self._preparing[old].cancel() or self._preparing[old].done():
                    del self._preparing[old]
            self._preparing[key] = self._pool.submit(self._preparation.prepared, row)
            self._host.expect()
            self._tend_host()
            self._preparing[key].add_done_callback(lambda _: self.ring())
        elif work.done():
            del self._preparing[key]
            error = work.exception()
            if error is None:
                return  # Its folder was removed: the next round begins anew.
            if not isinstance(error, AzureMLException):
                _log.error("service %s could not be prepared", row.name, exc_info=error)
            self._host.say(row.id, f"revision {row.revision} cannot be prepared: {error}")
            self._fail(row, str(error))

    def _fail(self, row: Row[Any], error: str) -> None:
        """A first revision that fails is the service's failure; a later one leaves the one before it in place."""
        if not row.good_revision:
            self._set(row, state=ServiceState.FAILED, error=error, reason="")
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
        if seen.revision:
            values["serving_revision"] = seen.revision
            if seen.revision == row.revision:
                values.update(good_revision=row.revision, reason="")
                if row.good_revision != row.revision:
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

        def write(connection: Connection) -> None:
            present = services.find_row(connection, row.workspace, row.name)
            is_same = present is not None and present.id == row.id and present.revision == row.revision
            if is_same and present is not None and present.state != ServiceState.DELETING:
                services.change(connection, row.id, now, **new)

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
            self._told.pop(row.id, None)
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
        return Wanted(
            revision=row.revision, last_good=row.good_revision, host=facts.host, port=row.port,
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
