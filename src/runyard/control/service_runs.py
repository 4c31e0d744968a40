"""Replicas of services that are runs of a cluster: as many as their revisions want, and none that nobody wants.

A run is a replica by its row in ``service_replicas``, written with the run in one transaction: whatever ends this
server, the next one finds each by that row and starts none twice.
"""

import os
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Set, Tuple

from sqlalchemy import Connection, Row

from runyard.compute.service_host import ServiceHost
from runyard.control import runs as life
from runyard.control.schedule import LOCAL
from runyard.control.service_plan import model_folder
from runyard.db import experiments, runs, services
from runyard.db.engine import Database
from runyard.errors import NotFoundError, ServiceException
from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.models import Model
from runyard.protocol.record import record
from runyard.protocol.runs import TERMINAL, RunError, RunSpec, RunStatus
from runyard.protocol.services import (
    REVISION_FILE,
    RUN_FILE,
    Deployment,
    JoinedReplicas,
    ReplicaPlan,
    Revision,
    Seen,
    ServiceReplica,
    ServiceSpec,
    ServiceState,
    first_count,
    replica_secret,
)
from runyard.protocol.trees import Tree, TreeEntry, check_distinct, decode_tree, encode_tree
from runyard.protocol.wire import loads
from runyard.storage.base import ArtifactStore

#: The experiment of such runs.
EXPERIMENT = "services"
#: The script of such runs.
PROGRAM = ".runyard/replica.py"
_PROGRAM_TEXT = b'''"""Answers for the model beside it."""

import sys

from runyard.sdk.replica import main

sys.exit(main())
'''
#: After so many replicas in a row that ended soon, the next one waits, seconds; on one host: serving/group.py.
PAUSES_S = (0.0, 2.0, 5.0, 15.0, 60.0, 300.0)
#: A replica that could answer for so long is no repeated failure, seconds.
SETTLED_S = 30.0
#: So many whose machines were lost, before any could answer, are the revision's failure.
LOST_MAX = 3
#: A next revision whose runs wait in the queue for so long is given a place of the present one's, seconds.
ROOM_S = 10.0
#: An end that is the machine's fault, and not the model's or its environment's.
_SYSTEM = "SystemError"

Rows = Sequence[Row[Any]]


@record
class Wish:
    """What is to be done about one revision's runs."""

    start: int = 0
    cancel: Tuple[str, ...] = ()


def decide(deployment: Optional[Deployment], rows: Rows, joined: Optional[JoinedReplicas], now: int) -> Wish:
    """Compare the runs of one revision with what it wants, None: nothing; ``now`` in microseconds. Pure.

    Those that are connected are the front's to let go: it has them finish what they work at.
    """
    going: Set[str] = set() if joined is None else set(joined.dismissed)
    inside: Set[str] = set() if joined is None else set(joined.joined)
    active = [
        row for row in rows if row.status not in TERMINAL and not row.cancel_requested and row.run_id not in going
    ]
    is_leaving = joined is not None and joined.is_leaving
    if deployment is None or not deployment.target or is_leaving:
        return Wish(cancel=tuple(row.run_id for row in active if not (is_leaving and row.run_id in inside)))
    hung = tuple(row.run_id for row in active if joined is not None and row.run_id in joined.hung)
    staying = [row for row in active if row.run_id not in hung]
    wanted = first_count(deployment) if joined is None else joined.wanted
    if len(staying) > wanted:
        outside = [row.run_id for row in staying if row.run_id not in inside]
        surplus = len(staying) - wanted
        return Wish(cancel=(*hung, *outside[::-1][:surplus]))
    is_paused = now < _not_before(rows)
    return Wish(0 if is_paused else wanted - len(staying), hung)


def failure_of(rows: Rows) -> str:
    """Why a revision that never answered cannot: what its runs failed of; '' while it may."""
    if any(row.ready_at is not None for row in rows):
        return ""
    lost = 0
    for row in rows:
        if row.status not in TERMINAL or row.cancel_requested:
            continue
        error = loads(RunError, row.error) if row.error else RunError(_SYSTEM, "It ended by itself.")
        lost += 1
        if error.code != _SYSTEM or lost >= LOST_MAX:
            return f"The run {row.run_id}, its replica, ended: {error.message}\n{error.details}".strip()
    return ""


def waits_for(target: str, rows: Rows, joined: Optional[JoinedReplicas]) -> str:
    """What a revision that does not answer yet waits for, by its oldest run that lives; '' where none does."""
    for row in rows:
        if row.status in TERMINAL or row.cancel_requested:
            continue
        if joined is not None and row.run_id in joined.joined:
            return f"The model is being loaded on {target!r} by the run {row.run_id}."
        return f"Its replica, the run {row.run_id} on {target!r}, is {row.status}: {row.reason or 'no reason given'}"
    return f"Its replicas on {target!r} are about to be submitted."


def _not_before(rows: Rows) -> float:
    """When the next run may begin, by how those before it ended: one after the other, at a growing distance."""
    ended = sorted((row for row in rows if row.ended_at is not None), key=lambda row: row.ended_at, reverse=True)
    deaths = 0
    for row in ended:
        if row.cancel_requested or (row.ready_at is not None and row.ended_at - row.ready_at > SETTLED_S * 1e6):
            break
        deaths += 1
    if not deaths:
        return 0.0
    return float(ended[0].ended_at + PAUSES_S[min(deaths, len(PAUSES_S)) - 1] * 1e6)


class ServiceRuns:
    """The runs of all services' replicas."""

    def __init__(self, database: Database, host: ServiceHost, on_change: Callable[[str], None]) -> None:
        """``on_change`` gets the run that was submitted or is to end."""
        self._database, self._host, self._on_change = database, host, on_change
        #: Revisions for which the one before has given a place up.
        self._has_room: Set[Tuple[str, int]] = set()

    def advance(self, row: Row[Any], rows: Rows, seen: Optional[Seen], now: int) -> None:
        """Submit what is missing and cancel what is too much, of every revision of the service."""
        joined = _by_revision(seen)
        wanted = _wanted_revisions(row, seen)
        for replica in rows:
            if replica.ready_at is None and any(replica.run_id in one.ready for one in joined.values()):
                self._database.write(partial(services.note_ready, run_id=replica.run_id, now=now))
        for number in sorted({*wanted, *(one.revision for one in rows if one.status not in TERMINAL)}):
            deployment = self._deployment(row, number) if number in wanted else None
            wish = decide(deployment, [one for one in rows if one.revision == number], joined.get(number), now)
            self._cancel(row, wish.cancel, now)
            if wish.start:
                self._start(row, number, wish.start, now)

    def failure(self, row: Row[Any], rows: Rows) -> str:
        """Why the revision that is to come never will; '' while it may."""
        if row.revision == row.good_revision or not loads(ServiceSpec, row.spec).deployment.target:
            return ""
        return failure_of([one for one in rows if one.revision == row.revision])

    def room(self, row: Row[Any], rows: Rows, seen: Optional[Seen], now: int) -> int:
        """How many replicas the revision that answers gives up, so that the next one comes to a place.

        Once given, it stays so until the next one answers: to take it back would only begin the wait again.
        """
        key = (row.id, row.revision)
        joined = _by_revision(seen)
        before = joined.get(seen.revision) if seen is not None else None
        if seen is None or before is None or seen.revision == row.revision or row.revision == row.good_revision:
            self._has_room.discard(key)
            return 0
        mine = [one for one in rows if one.revision == row.revision and one.status not in TERMINAL]
        waiting = [one for one in mine if one.status == RunStatus.QUEUED and not one.report_seq]
        waited_us = min((now - (one.queued_at or now) for one in waiting), default=0)
        if len(waiting) == len(mine) and len(before.joined) > 1 and waited_us > ROOM_S * 1e6:
            self._has_room.add(key)
        return int(key in self._has_room)

    def reason(self, row: Row[Any], rows: Rows, seen: Optional[Seen]) -> str:
        """What the revision that is to answer waits for; '' where its replicas are no cluster's."""
        target = loads(ServiceSpec, row.spec).deployment.target
        if not target:
            return ""
        return waits_for(target, [one for one in rows if one.revision == row.revision],
                         _by_revision(seen).get(row.revision))  # fmt: skip

    def plan_of(
        self, workspace: str, run_id: str, keys_of: Callable[[Row[Any]], Dict[str, str]], has_tls: bool
    ) -> ReplicaPlan:
        """What a run is told that is a replica; NotFoundError where no service has it, or wants it any more."""
        with self._database.read() as connection:
            row = services.find_replica(connection, run_id)
        if row is None or row.workspace != workspace or row.state == ServiceState.DELETING:
            raise NotFoundError(f"Run {run_id[:80]!r} is no replica of a service.")
        number = row.of_revision
        path = self._host.revision_folder(row.id, number) / REVISION_FILE
        if not path.exists():
            raise ServiceException(f"Revision {number} of service {row.name!r} is being prepared.")
        revision = loads(Revision, path.read_text("utf-8"))
        joined = _by_revision(self._host.watch(row.id)).get(number)
        secret = replica_secret(keys_of(row)["token_key"], row.name, number, run_id)
        port = 0 if joined is None or joined.is_leaving else joined.port
        return ReplicaPlan(revision.scoring, revision.variables, secret, port, has_tls)

    def end(self, row: Row[Any], rows: Rows, now: int) -> bool:
        """Cancel all; True once none is left."""
        left = [one for one in rows if one.status not in TERMINAL]
        self._cancel(row, [one.run_id for one in left if not one.cancel_requested], now)
        return not left

    def _deployment(self, row: Row[Any], number: int) -> Optional[Deployment]:
        if number == row.revision:
            return loads(ServiceSpec, row.spec).deployment
        with self._database.read() as connection:
            for one in services.list_revisions(connection, row.id):
                if one.number == number:
                    return one.spec.deployment
        return None

    def _cancel(self, row: Row[Any], run_ids: Sequence[str], now: int) -> None:
        for run_id in run_ids:
            self._database.write(
                partial(life.request_cancel, workspace=row.workspace, run_id=run_id, user=row.created_by, now=now)
            )
            self._on_change(run_id)

    def _start(self, row: Row[Any], number: int, count: int, now: int) -> None:
        path = self._host.revision_folder(row.id, number) / RUN_FILE
        if not path.exists():
            return  # It is being prepared.
        pattern = loads(RunSpec, path.read_text("utf-8"))
        seen = self._host.watch(row.id)
        for _ in range(count):
            spec = replace(pattern, run_id=f"service-{row.name}_{now // 1_000_000}_{os.urandom(4).hex()}")

            def create(connection: Connection, spec: RunSpec = spec) -> bool:
                # Looked at again where nobody else writes: another revision, or the end, may have been asked for.
                present = services.find_row(connection, row.workspace, row.name)
                if present is None or present.id != row.id or present.state == ServiceState.DELETING:
                    return False
                if number not in _wanted_revisions(present, seen):
                    return False
                experiments.create_experiment(connection, row.workspace, EXPERIMENT, row.created_by, now)
                runs.create_run(connection, spec, row.workspace, row.created_by, now)
                services.add_replica(connection, row, number, spec.run_id, now)
                return True

            if self._database.write(create):
                self._host.say(row.id, f"revision {number}: submitted the run {spec.run_id} to {spec.target!r}")
                self._on_change(spec.run_id)


def shown_replicas(rows: Rows, seen: Optional[Seen]) -> Tuple[ServiceReplica, ...]:
    """A service's runs that have not ended."""
    ready = {run_id for one in _by_revision(seen).values() for run_id in one.ready}
    return tuple(
        ServiceReplica(row.run_id, row.revision, row.status, row.reason or "", _node_of(row), row.run_id in ready)
        for row in rows
        if row.status not in TERMINAL
    )


def _node_of(row: Row[Any]) -> str:
    """The node's name where it is ours to know; those of Slurm are its own."""
    return row.node if row.node and row.node != LOCAL else ""


def store_snapshot(store: ArtifactStore, spec: ServiceSpec, found: Sequence[Model]) -> str:
    """What the working folder of each replica has: the script's files, the models where v1 has them, our program."""
    entries: Dict[str, TreeEntry] = {}
    if spec.entry is not None:
        entries = {one.path: one for one in decode_tree(store.read(spec.entry.snapshot)).entries}
    for model in found:
        for one in model.files:
            path = f"{model_folder('', model)}/{one.path}"
            entries[path] = TreeEntry(path, one.digest, one.size_bytes)
    (program,) = store.put_many([_PROGRAM_TEXT])
    entries[PROGRAM] = TreeEntry(PROGRAM, program, len(_PROGRAM_TEXT))
    tree = Tree(tuple(entries.values()))
    check_distinct(tree)
    (digest,) = store.put_many([encode_tree(tree)])
    return digest


def run_pattern(spec: ServiceSpec, revision: int, environment: EnvironmentSpec, snapshot: str) -> RunSpec:
    """The run that each replica of a revision is, but for its id: without an end, retried as its target's runs are."""
    limit_gb = spec.deployment.memory_gb_limit
    return RunSpec(
        run_id="",
        experiment=EXPERIMENT,
        script=PROGRAM,
        target=spec.deployment.target,
        environment=environment,
        snapshot=snapshot,
        memory_bytes=None if limit_gb is None else int(limit_gb * 1e9),
        display_name=f"a replica of the service {spec.name}, revision {revision}",
        properties={"runyard.service": spec.name, "runyard.service_revision": str(revision)},
    )


def _by_revision(seen: Optional[Seen]) -> Dict[int, JoinedReplicas]:
    """Of two groups of one revision, that which stays."""
    found = {} if seen is None else {one.revision: one for one in seen.elsewhere if one.is_leaving}
    return {**found, **({} if seen is None else {one.revision: one for one in seen.elsewhere if not one.is_leaving})}


def _wanted_revisions(row: Row[Any], seen: Optional[Seen]) -> Set[int]:
    """Those that answer, or are to: a next one, and the last that is known to work until it does."""
    if row.state == ServiceState.DELETING:
        return set()
    if seen is not None and seen.revision == row.revision:
        return {row.revision}
    wanted = {row.good_revision}
    if row.state != ServiceState.FAILED and not (seen is not None and seen.failed_revision == row.revision):
        wanted.add(row.revision)
    return wanted - {0}
