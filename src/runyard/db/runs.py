"""Runs, their events and the reports of their runners. Only control takes ``Steps``."""

import json
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sqlalchemy import (
    Connection,
    Row,
    Select,
    String,
    Update,
    and_,
    bindparam,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.labels import check_labels
from runyard.db.tables import artifacts, experiments, reports, run_events, runs
from runyard.errors import ConflictError, NotFoundError, UserErrorException
from runyard.protocol.environments import EnvironmentSpec, spec_digest
from runyard.protocol.outputs import OutputSpec
from runyard.protocol.plan import Report
from runyard.protocol.runs import (
    LOG_FOLDERS,
    TERMINAL,
    TRANSITIONS,
    Artifact,
    Run,
    RunChange,
    RunError,
    RunEvent,
    RunKind,
    RunPage,
    RunSpec,
    RunStatus,
    turn_of,
)
from runyard.protocol.wire import dumps, from_wire, loads

#: Most runs in one page.
PAGE_MAX = 1_000
#: Most warnings of one run.
WARNINGS_MAX = 100
#: Longest display name, in characters.
DISPLAY_NAME_MAX = 1_000


# Built once: to build a statement costs several times as much as to execute it, and these run at every step of a run.
_RUN_BY_ID = select(runs).where(runs.c.id == bindparam("run_id"), runs.c.workspace == bindparam("owner"))
_ROW_BY_ID = select(*[c for c in runs.c if c.name != "spec"]).where(runs.c.id == bindparam("run_id"))
_ACTIVE_COLUMNS = (
    "row", "id", "workspace", "status", "reason", "reason_at", "target", "key", "attempt", "cancel_requested",
    "started_at", "heard_at", "node_count", "turn", "gpus", "queued_at", "report_seq",
)  # fmt: skip
_ACTIVE = select(*[runs.c[name] for name in _ACTIVE_COLUMNS]).where(
    runs.c.ended_at.is_(None), runs.c.kind == RunKind.SCRIPT
)
_IS_WAITING = and_(runs.c.status == RunStatus.QUEUED, runs.c.key.is_(None), runs.c.cancel_requested.is_(False))
# By an expression, since SQLite would read every run that ever was in the order of the column itself.
_ACTIVE_ROWS = _ACTIVE.order_by(runs.c.row + 0)
_MOVING_ROWS = _ACTIVE.where(not_(_IS_WAITING))
_FIRST_WAITING = (
    _ACTIVE.where(
        _IS_WAITING,
        runs.c.target == bindparam("named"),
        or_(bindparam("owner", type_=String).is_(None), runs.c.workspace == bindparam("owner")),
    )
    .order_by(runs.c.turn, runs.c.row)
    .limit(bindparam("most"))
)
_NEXT_NUMBER = (
    update(experiments)
    .where(experiments.c.workspace == bindparam("owner"), experiments.c.name == bindparam("named"))
    .values(runs=experiments.c.runs + 1)
    .returning(experiments.c.runs)
)
_ADD_RUN = insert(runs)
#: What a new run's row and the run itself have in common.
_SAME_COLUMNS = (
    "id", "workspace", "experiment", "number", "status", "attempt", "created_by", "created_at", "target",
    "display_name", "started_at", "reason", "reason_at", "cancel_requested", "event_seq",
)  # fmt: skip
_ENVIRONMENT_BY_ID = select(func.json_extract(runs.c.spec, "$.environment")).where(runs.c.id == bindparam("run_id"))
_OUTPUTS_BY_ID = select(func.json_extract(runs.c.spec, "$.outputs")).where(runs.c.id == bindparam("run_id"))
_SPEC_BY_ID = select(runs.c.spec).where(runs.c.id == bindparam("run_id"))
_PROGRESS = select(runs.c.event_seq, runs.c.ended_at.is_not(None)).where(
    runs.c.id == bindparam("run_id"), runs.c.workspace == bindparam("owner")
)
_REPORT_BODIES = (
    select(reports.c.body)
    .where(
        reports.c.run_id == bindparam("run_id"),
        reports.c.attempt == bindparam("of_attempt"),
        reports.c.sequence > bindparam("after"),
    )
    .order_by(reports.c.sequence)
)
_ADD_REPORT = upsert(reports).on_conflict_do_nothing()
_ADD_EVENT = insert(run_events)
_LATEST_EVENT = select(func.max(run_events.c.seq)).where(run_events.c.run_id == bindparam("of_run")).scalar_subquery()
_ARTIFACT = select(artifacts.c.path, artifacts.c.digest, artifacts.c.size_bytes).where(
    artifacts.c.run_id == bindparam("run_id")
)
_ARTIFACTS_BY_PATH = _ARTIFACT.order_by(artifacts.c.path)
_ARTIFACT_AT_PATH = _ARTIFACT.where(artifacts.c.path == bindparam("path"))
_ADD_ARTIFACT = upsert(artifacts)
_ADD_ARTIFACT = _ADD_ARTIFACT.on_conflict_do_update(
    index_elements=["run_id", "path"],
    set_={"digest": _ADD_ARTIFACT.excluded.digest, "size_bytes": _ADD_ARTIFACT.excluded.size_bytes},
)


@cache
def _update_columns(names: Tuple[str, ...], has_event: bool) -> Update:
    values: Dict[str, Any] = {name: bindparam(name) for name in names}
    if has_event:
        values["event_seq"] = _LATEST_EVENT
    return update(runs).where(runs.c.id == bindparam("of_run")).values(values)


def create_run(connection: Connection, spec: RunSpec, workspace: str, user: str, now: int) -> Run:
    """A new run in Starting (a script) or Running (interactive). The same spec again returns the stored run."""
    text = dumps(spec)
    present = connection.execute(select(runs.c.spec, runs.c.workspace).where(runs.c.id == spec.run_id)).first()
    if present is not None:
        if present.spec != text or present.workspace != workspace:
            raise ConflictError(f"Run {spec.run_id} exists already; choose another id.")
        return get_run(connection, workspace, spec.run_id)
    _check_display_name(spec.display_name)
    check_labels(spec.tags, "tag")
    check_labels(spec.properties, "property")
    number = connection.execute(_NEXT_NUMBER, {"owner": workspace, "named": spec.experiment}).scalar()
    if number is None:
        raise NotFoundError(f"Experiment {spec.experiment!r} does not exist in workspace {workspace!r}.")
    is_script = spec.kind == RunKind.SCRIPT
    run = Run(
        id=spec.run_id, workspace=workspace, experiment=spec.experiment, number=number,
        status=RunStatus.STARTING if is_script else RunStatus.RUNNING, attempt=1, created_by=user, created_at=now,
        spec=spec, target=spec.target, display_name=spec.display_name or spec.run_id,
        started_at=None if is_script else now, reason="Accepted; about to be prepared." if is_script else None,
        reason_at=now, tags=spec.tags, properties=spec.properties,
    )  # fmt: skip
    run = replace(run, event_seq=_add_event(connection, run, user, now))
    columns = {name: getattr(run, name) for name in _SAME_COLUMNS}
    connection.execute(
        _ADD_RUN,
        {
            **columns, "kind": spec.kind, "retries": 0, "parent": spec.parent_run_id, "warnings": "[]",
            "tags": dumps(spec.tags), "properties": dumps(spec.properties), "report_seq": 0, "spec": text,
            "node_count": spec.node_count, "turn": turn_of(now, spec.priority),
        },
    )  # fmt: skip
    return run


def get_run(connection: Connection, workspace: str, run_id: str) -> Run:
    """The run; NotFoundError where the workspace has none of that id."""
    row = connection.execute(_RUN_BY_ID, {"run_id": run_id, "owner": workspace}).first()
    if row is None:
        raise NotFoundError(f"Run {run_id!r} does not exist in workspace {workspace!r}.")
    return _run(row)


def list_runs(connection: Connection, workspace: str, query: "RunQuery") -> RunPage:
    """A page of the workspace's runs, newest first."""
    statement = _filtered(select(runs).where(runs.c.workspace == workspace), query)
    limit = min(query.limit, PAGE_MAX)
    rows = connection.execute(statement.order_by(runs.c.row.desc()).limit(limit + 1)).all()
    cursor = str(rows[limit - 1].row) if len(rows) > limit else None
    return RunPage(tuple(_run(row) for row in rows[:limit]), cursor)


class RunQuery:
    """Which runs to list; every condition given must hold."""

    def __init__(
        self,
        experiment: Optional[str] = None,
        status: Optional[str] = None,
        tags: Optional[Dict[str, Optional[str]]] = None,
        properties: Optional[Dict[str, Optional[str]]] = None,
        parent: Optional[str] = None,
        limit: int = PAGE_MAX,
        cursor: Optional[str] = None,
    ) -> None:
        self.experiment = experiment
        self.status = status
        self.tags = tags or {}
        self.properties = properties or {}
        self.parent = parent
        self.limit = limit
        self.cursor = cursor


def _filtered(statement: Select[Any], query: RunQuery) -> Select[Any]:
    if query.experiment is not None:
        statement = statement.where(runs.c.experiment == query.experiment)
    if query.status is not None:
        statement = statement.where(runs.c.status == query.status)
    if query.parent is not None:
        statement = statement.where(runs.c.parent == query.parent)
    if query.cursor is not None:
        if not query.cursor.isascii() or not query.cursor.isdigit() or len(query.cursor) > 18:
            raise UserErrorException(f"The cursor {query.cursor[:40]!r} is not one that a page gave.")
        statement = statement.where(runs.c.row < int(query.cursor))
    for column, labels in ((runs.c.tags, query.tags), (runs.c.properties, query.properties)):
        for key, value in labels.items():
            statement = statement.where(_has_label(column, key, value))
    return statement


def _has_label(column: Any, key: str, value: Optional[str]) -> Any:
    """Is that label there, of that value if one is given? A path of SQLite's JSON could not name every key."""
    label = func.json_each(column).table_valued("key", "value")
    found = select(label.c.key).where(label.c.key == key).correlate(runs)
    return (found if value is None else found.where(label.c.value == value)).exists()


class Steps:
    """What one transaction makes of a run: noted here step by step, written down together by ``save``.

    There is one writer, so what was read within its transaction stays true until that ends. ``advance`` is the only way
    in which a status changes.
    """

    def __init__(self, connection: Connection, row: Row[Any]) -> None:
        self.connection = connection
        #: The run before these steps.
        self.row = row
        self.status: str = row.status
        self.reason: Optional[str] = row.reason
        self.reason_at: int = row.reason_at or 0
        self._events: List[Dict[str, Any]] = []
        self._changes: Dict[str, Any] = {}

    def advance(self, to_status: str, now: int, by: str = "control", **changes: Any) -> None:
        """Move the run to another status; ``changes`` are further columns of it."""
        if to_status not in TRANSITIONS[self.status]:
            raise ConflictError(f"A run cannot go from {self.status} to {to_status}.")
        marks = {"ended_at": now} if to_status in TERMINAL else {}
        if to_status == RunStatus.QUEUED:
            marks["queued_at"] = now
        self.status = to_status
        self._note(changes.pop("reason", None), now, by)
        self.touch(status=to_status, **{**marks, **changes})

    def say(self, reason: str, now: int) -> None:
        """Say what a waiting run waits for; readers are woken as by a change of status."""
        if self.reason != reason:
            self._note(reason, now, "control")

    def touch(self, **changes: Any) -> None:
        """Change columns that are no status: its node, key, lock, reports read."""
        self._changes.update(changes)

    def save(self) -> None:
        """Write down what was noted."""
        if self._events:
            self.connection.execute(_ADD_EVENT, self._events)
        if self._changes:
            statement = _update_columns(tuple(self._changes), bool(self._events))
            self.connection.execute(statement, {"of_run": self.row.id, **self._changes})
        self._events, self._changes = [], {}

    def _note(self, reason: Optional[str], now: int, by: str) -> None:
        self.reason, self.reason_at = reason, now
        self.touch(reason=reason, reason_at=now)
        self._events.append(_event(self.row, self.status, reason, by, now))


def find_steps(connection: Connection, run_id: str) -> Optional[Steps]:
    """The steps of that run, none taken yet; None where there is no such run."""
    row = find_row(connection, run_id)
    return None if row is None else Steps(connection, row)


def advance(
    connection: Connection,
    run_id: str,
    from_status: str,
    to_status: str,
    now: int,
    by: str = "control",
    **changes: Any,
) -> bool:
    """Take one step, if the run has that status still. Returns False where another one was found: decide again."""
    if to_status not in TRANSITIONS[from_status]:
        raise ConflictError(f"A run cannot go from {from_status} to {to_status}.")
    run = find_steps(connection, run_id)
    if run is None or run.status != from_status:
        return False
    run.advance(to_status, now, by, **changes)
    run.save()
    return True


def change_run(connection: Connection, workspace: str, run_id: str, change: RunChange, user: str, now: int) -> Run:
    """A user's change of labels. A property that exists keeps its value: ConflictError."""
    run = get_run(connection, workspace, run_id)
    values: Dict[str, Any] = {}
    if change.tags is not None or change.remove_tags:
        tags = {key: value for key, value in run.tags.items() if key not in change.remove_tags}
        tags.update(change.tags or {})
        check_labels(tags, "tag")
        values["tags"] = dumps(tags)
    if change.properties is not None:
        for key, value in change.properties.items():
            if run.properties.get(key, value) != value:
                raise ConflictError(f"Property {key!r} of run {run_id} is set and cannot change.")
        properties = {**run.properties, **change.properties}
        check_labels(properties, "property")
        values["properties"] = dumps(properties)
    if change.display_name is not None:
        _check_display_name(change.display_name)
        values["display_name"] = change.display_name
    if values:
        connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
        _record_event(connection, run, run.reason, user, now)
    return get_run(connection, workspace, run_id)


def add_warnings(connection: Connection, run_id: str, sentences: Sequence[str]) -> None:
    """What a person should know of the run, each once."""
    known = connection.execute(select(runs.c.warnings).where(runs.c.id == run_id)).scalar()
    kept = list(dict.fromkeys([*json.loads(known or "[]"), *sentences]))[:WARNINGS_MAX]
    connection.execute(update(runs).where(runs.c.id == run_id).values(warnings=json.dumps(kept)))


def request_cancel(connection: Connection, workspace: str, run_id: str, user: str, now: int) -> Run:
    """A user's wish that the run ends; once it ended, nothing changes."""
    run = get_run(connection, workspace, run_id)
    if run.status not in TERMINAL and not run.cancel_requested:
        connection.execute(update(runs).where(runs.c.id == run_id).values(cancel_requested=True))
        _record_event(connection, run, f"Cancel was requested by {user}.", user, now)
    return get_run(connection, workspace, run_id)


def list_events(connection: Connection, workspace: str, run_id: str, after: int) -> List[RunEvent]:
    """The run's events after ``after``, oldest first."""
    get_run(connection, workspace, run_id)
    rows = connection.execute(
        select(run_events)
        .where(run_events.c.run_id == run_id, run_events.c.seq > after)
        .order_by(run_events.c.seq)
        .limit(PAGE_MAX)
    )
    return [RunEvent(row.seq, row.run_id, row.at, row.status, row.reason) for row in rows]


def find_progress(connection: Connection, workspace: str, run_id: str) -> Optional[Tuple[int, bool]]:
    """The number of the run's latest event, and whether the run has ended; None where there is no such run."""
    row = connection.execute(_PROGRESS, {"run_id": run_id, "owner": workspace}).first()
    return None if row is None else (row[0], bool(row[1]))


def add_reports(connection: Connection, row: Row[Any], batch: Sequence[Report], now: int) -> None:
    """Keep a runner's reports, each once. A stale attempt: ConflictError."""
    owned = {"run_id": row.id, "workspace": row.workspace, "created_by": "run:" + row.id, "created_at": now}
    rows = []
    for report in batch:
        if report.attempt != row.attempt:
            raise ConflictError(f"Attempt {report.attempt} of run {row.id} is over; it is now {row.attempt}.")
        rows.append({"attempt": report.attempt, "sequence": report.sequence, "body": dumps(report), **owned})
    if rows:
        connection.execute(_ADD_REPORT, rows)


def list_reports(connection: Connection, run_id: str, attempt: int, after: int) -> List[Report]:
    """An attempt's reports after ``after``, in their order."""
    rows = connection.execute(_REPORT_BODIES, {"run_id": run_id, "of_attempt": attempt, "after": after})
    return [loads(Report, row.body) for row in rows]


def active_rows(connection: Connection) -> Sequence[Row[Any]]:
    """The runs that control moves, oldest first: what it decides by."""
    return connection.execute(_ACTIVE_ROWS).all()


def next_rows(connection: Connection, places: Sequence[Tuple[Optional[str], str, int]]) -> Sequence[Row[Any]]:
    """As ``active_rows``, but of the runs that wait for a node only those whose turn is next at each target.

    ``places``: (workspace, None for any; target; how many). To read a long queue costs more than to start a run.
    """
    found = list(connection.execute(_MOVING_ROWS))
    for workspace, target, most in places:
        found.extend(connection.execute(_FIRST_WAITING, {"owner": workspace, "named": target, "most": most}))
    return sorted(found, key=lambda row: row.row)


def find_row(connection: Connection, run_id: str) -> Optional[Row[Any]]:
    """One run's columns without its spec; None where there is none."""
    return connection.execute(_ROW_BY_ID, {"run_id": run_id}).first()


def ids_beginning(connection: Connection, start: str) -> Sequence[str]:
    """The ids of all runs, of any workspace, that begin so."""
    return connection.scalars(select(runs.c.id).where(runs.c.id.between(start, start + "~"))).all()


def get_row(connection: Connection, workspace: str, run_id: str) -> Row[Any]:
    """As ``find_row``, in that workspace; NotFoundError where it has none of that id."""
    row = find_row(connection, run_id)
    if row is None or row.workspace != workspace:
        raise NotFoundError(f"Run {run_id!r} does not exist in workspace {workspace!r}.")
    return row


def get_spec(connection: Connection, run_id: str) -> RunSpec:
    """What was asked."""
    return loads(RunSpec, connection.execute(_SPEC_BY_ID, {"run_id": run_id}).scalar_one())


def get_outputs(connection: Connection, run_id: str) -> Tuple[OutputSpec, ...]:
    """A run's outputs alone: most runs have none, and their spec need not be decoded to know it."""
    text = connection.execute(_OUTPUTS_BY_ID, {"run_id": run_id}).scalar()
    return tuple(from_wire(OutputSpec, one) for one in json.loads(text or "[]"))


def get_environment(connection: Connection, run_id: str) -> Tuple[EnvironmentSpec, str]:
    """The environment that was asked for, and its digest."""
    return _environment(connection.execute(_ENVIRONMENT_BY_ID, {"run_id": run_id}).scalar_one())


@lru_cache(maxsize=16)
def _environment(text: str) -> Tuple[EnvironmentSpec, str]:
    """Decoded once for the many runs that ask for the same one."""
    spec = loads(EnvironmentSpec, text)
    return spec, spec_digest(spec)


def add_artifacts(connection: Connection, row: Row[Any], found: Sequence[Artifact], user: str, now: int) -> int:
    """Record files of a run whose blobs are in the store; a path given again takes the new content."""
    owned = {"workspace": row.workspace, "created_by": user, "created_at": now}
    rows = [
        {"run_id": row.id, "path": one.path, "digest": one.digest, "size_bytes": one.size_bytes, **owned}
        for one in found
    ]
    if rows:
        connection.execute(_ADD_ARTIFACT, rows)
    return len(rows)


def list_artifacts(connection: Connection, run_id: str, prefix: str = "") -> List[Artifact]:
    """The run's files whose path starts with ``prefix``, by path."""
    rows = connection.execute(_ARTIFACTS_BY_PATH, {"run_id": run_id})
    return [Artifact(*row) for row in rows if row[0].startswith(prefix)]


def list_logs(connection: Connection, run_id: str) -> List[Artifact]:
    """The run's stored logs, by path."""
    return [one for one in list_artifacts(connection, run_id) if one.path.startswith(LOG_FOLDERS)]


def find_artifact(connection: Connection, run_id: str, path: str) -> Optional[Artifact]:
    """The run's file of that path; None where it has none."""
    row = connection.execute(_ARTIFACT_AT_PATH, {"run_id": run_id, "path": path}).first()
    return None if row is None else Artifact(*row)


def _check_display_name(name: Optional[str]) -> None:
    if name is not None and len(name) > DISPLAY_NAME_MAX:
        raise UserErrorException(f"A display name has at most {DISPLAY_NAME_MAX} characters, not {len(name)}.")


def _record_event(connection: Connection, run: Run, reason: Optional[str], who: str, now: int) -> None:
    """Something happened to a run, which keeps its status."""
    sequence = _add_event(connection, replace(run, reason=reason), who, now)
    connection.execute(_update_columns(("event_seq",), False), {"of_run": run.id, "event_seq": sequence})


def _add_event(connection: Connection, run: Run, who: str, now: int) -> int:
    found = connection.execute(_ADD_EVENT, _event(run, run.status, run.reason, who, now)).inserted_primary_key
    return int(found[0]) if found else 0


def _event(run: Any, status: str, reason: Optional[str], who: str, now: int) -> Dict[str, Any]:
    return {
        "run_id": run.id, "workspace": run.workspace, "at": now, "status": status, "reason": reason,
        "created_by": who, "created_at": now,
    }  # fmt: skip


def _run(row: Row[Any]) -> Run:
    return Run(
        id=row.id, workspace=row.workspace, experiment=row.experiment, number=row.number, status=row.status,
        attempt=row.attempt, created_by=row.created_by, created_at=row.created_at, spec=loads(RunSpec, row.spec),
        target=row.target, display_name=row.display_name, started_at=row.started_at, ended_at=row.ended_at,
        reason=row.reason, reason_at=row.reason_at, node=row.node, cancel_requested=row.cancel_requested,
        exit_code=row.exit_code, error=loads(RunError, row.error) if row.error else None,
        warnings=tuple(json.loads(row.warnings)), tags=json.loads(row.tags), properties=json.loads(row.properties),
        lock=row.lock, event_seq=row.event_seq, queued_at=row.queued_at,
    )  # fmt: skip
