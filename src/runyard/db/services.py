"""Services and their revisions."""

from dataclasses import replace
from typing import Any, Dict, List, Optional

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from runyard.db.near import did_you_mean
from runyard.db.tables import runs, service_replicas, service_revisions, services
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.services import Service, ServiceRevision, ServiceSpec, ServiceState, labelled
from runyard.protocol.wire import dumps, loads

#: So many of a service's replicas that have ended are known still: by them the next ones are paused.
REPLICAS_REMEMBERED = 20


def create_service(
    connection: Connection, service_id: str, spec: ServiceSpec, secret: str, workspace: str, user: str, now: int
) -> Service:
    """A new service; one of that name gets a new revision where the spec says overwrite, else is a ConflictError."""
    row = find_row(connection, workspace, spec.name)
    if row is not None:
        if not spec.overwrite:
            raise ConflictError(
                f"Service {spec.name!r} exists already in workspace {workspace!r}; "
                "update it, delete it, or deploy with overwrite=True."
            )
        return add_revision(connection, row, spec, user, now)
    kept = _plain(spec)
    connection.execute(
        insert(services).values(
            id=service_id, name=spec.name, spec=dumps(kept), revision=1, good_revision=0, serving_revision=0,
            state=ServiceState.TRANSITIONING, reason="", error="", how="", port=spec.deployment.port, secret=secret,
            updated_at=now, workspace=workspace, created_by=user, created_at=now,
        )
    )  # fmt: skip
    _keep_revision(connection, service_id, 1, kept, workspace, user, now)
    return get_service(connection, workspace, spec.name)


def add_revision(connection: Connection, row: Row[Any], spec: ServiceSpec, user: str, now: int) -> Service:
    """What is to answer from now on; ConflictError for a service that is being deleted."""
    if row.state == ServiceState.DELETING:
        raise ConflictError(f"Service {row.name!r} is being deleted; try again in a moment.")
    # One that failed has been left for the one before it, and keeps its number.
    last = select(func.max(service_revisions.c.number)).where(service_revisions.c.service == row.id)
    kept, number = _plain(spec), int(connection.execute(last).scalar_one()) + 1
    # One that answers goes on meanwhile, and says so.
    state = row.state if row.state == ServiceState.HEALTHY else ServiceState.TRANSITIONING
    change(connection, row.id, now, spec=dumps(kept), revision=number, state=state, error="", reason="")
    _keep_revision(connection, row.id, number, kept, row.workspace, user, now)
    return get_service(connection, row.workspace, row.name)


def find_row(connection: Connection, workspace: str, name: str) -> Optional[Row[Any]]:
    """The service of that name."""
    return connection.execute(
        select(services).where(services.c.workspace == workspace, services.c.name == name)
    ).first()


def get_row(connection: Connection, workspace: str, name: str) -> Row[Any]:
    """As ``find_row``; NotFoundError where there is none."""
    row = find_row(connection, workspace, name)
    if row is None:
        near = did_you_mean(connection, services, workspace, name)
        raise NotFoundError(f"WebserviceNotFound: service {name!r} does not exist in workspace {workspace!r}.{near}")
    return row


def get_service(connection: Connection, workspace: str, name: str) -> Service:
    """The service, without what its processes say of it."""
    return to_service(get_row(connection, workspace, name))


def list_rows(connection: Connection, workspace: Optional[str] = None) -> List[Row[Any]]:
    """All services by name, of one workspace or of every one."""
    statement = select(services).order_by(services.c.workspace, services.c.name)
    if workspace is not None:
        statement = statement.where(services.c.workspace == workspace)
    return list(connection.execute(statement))


def list_revisions(connection: Connection, service_id: str) -> List[ServiceRevision]:
    """Newest first."""
    statement = select(service_revisions).where(service_revisions.c.service == service_id)
    rows = connection.execute(statement.order_by(service_revisions.c.number.desc()))
    return [
        ServiceRevision(row.number, row.created_by, row.created_at, loads(ServiceSpec, row.spec), row.answered_at)
        for row in rows
    ]


def change(connection: Connection, service_id: str, now: int, **values: Any) -> None:
    """Set columns of a service; a ``good_revision`` is one that answers, which is remembered."""
    connection.execute(update(services).where(services.c.id == service_id).values(updated_at=now, **values))
    if values.get("good_revision"):
        ours = service_revisions.c
        statement = update(service_revisions).where(ours.service == service_id, ours.answered_at.is_(None))
        connection.execute(statement.where(ours.number == values["good_revision"]).values(answered_at=now))


def change_labels(connection: Connection, row: Row[Any], spec: ServiceSpec, now: int) -> Service:
    """Other labels, or others who may ask, which need no new processes; each revision that is gone back to has them.

    An error is that of the last update: where the service answers, this one has gone well.
    """
    error = "" if row.state == ServiceState.HEALTHY else row.error
    change(connection, row.id, now, spec=dumps(_plain(spec)), error=error)
    ours = service_revisions.c
    for one in list_revisions(connection, row.id):
        statement = update(service_revisions).where(ours.service == row.id, ours.number == one.number)
        connection.execute(statement.values(spec=dumps(labelled(one.spec, spec))))
    return get_service(connection, row.workspace, row.name)


def remove(connection: Connection, service_id: str) -> None:
    """Forget a service whose processes have ended."""
    connection.execute(delete(service_replicas).where(service_replicas.c.service == service_id))
    connection.execute(delete(service_revisions).where(service_revisions.c.service == service_id))
    connection.execute(delete(services).where(services.c.id == service_id))


def add_replica(connection: Connection, row: Row[Any], revision: int, run_id: str, now: int) -> None:
    """That run is a replica of the service's revision; of those that have ended, only the last are remembered."""
    values: Dict[str, Any] = {"run_id": run_id, "service": row.id, "revision": revision, "created_at": now}
    connection.execute(insert(service_replicas).values(**values, workspace=row.workspace, created_by=row.created_by))
    ended = (
        select(runs.c.id)
        .join(service_replicas, service_replicas.c.run_id == runs.c.id)
        .where(service_replicas.c.service == row.id, runs.c.ended_at.is_not(None))
        .order_by(runs.c.ended_at.desc())
        .offset(REPLICAS_REMEMBERED)
    )
    connection.execute(delete(service_replicas).where(service_replicas.c.run_id.in_(ended)))


def list_replicas(connection: Connection, service_id: Optional[str] = None) -> List[Row[Any]]:
    """The runs that are replicas of that service, or of any, oldest first, with what of each run matters."""
    names = ("workspace", "target", "status", "reason", "node", "cancel_requested", "report_seq", "queued_at",
             "ended_at", "error")  # fmt: skip
    ours = service_replicas.c
    statement = (
        select(ours.run_id, ours.service, ours.revision, ours.ready_at, *[runs.c[name] for name in names])
        .join(runs, runs.c.id == ours.run_id)
        .order_by(runs.c.row)
    )
    if service_id is not None:
        statement = statement.where(ours.service == service_id)
    return list(connection.execute(statement))


def find_replica(connection: Connection, run_id: str) -> Optional[Row[Any]]:
    """The service's row and ``of_revision`` where that run is its replica; None for any other, and one that ends."""
    ours = service_replicas.c
    statement = (
        select(services, ours.revision.label("of_revision"))
        .join(service_replicas, services.c.id == ours.service)
        .join(runs, runs.c.id == ours.run_id)
    )
    stays = (runs.c.ended_at.is_(None), runs.c.cancel_requested.is_(False))
    return connection.execute(statement.where(ours.run_id == run_id, *stays)).first()


def note_ready(connection: Connection, run_id: str, now: int) -> None:
    """It has the model loaded; the first time counts."""
    statement = update(service_replicas).where(service_replicas.c.run_id == run_id)
    connection.execute(statement.where(service_replicas.c.ready_at.is_(None)).values(ready_at=now))


def to_service(row: Row[Any]) -> Service:
    """A row as users see it."""
    return Service(
        id=row.id, workspace=row.workspace, spec=loads(ServiceSpec, row.spec), state=row.state,
        created_by=row.created_by, created_at=row.created_at, updated_at=row.updated_at, revision=row.revision,
        serving_revision=row.serving_revision, reason=row.reason, error=row.error, how=row.how,
    )  # fmt: skip


def _keep_revision(
    connection: Connection, service_id: str, number: int, spec: ServiceSpec, workspace: str, user: str, now: int
) -> None:
    values: Dict[str, Any] = {"service": service_id, "number": number, "spec": dumps(spec)}
    connection.execute(insert(service_revisions).values(**values, workspace=workspace, created_by=user, created_at=now))


def _plain(spec: ServiceSpec) -> ServiceSpec:
    """Without what is kept elsewhere or counts once."""
    return replace(spec, overwrite=False, primary_key=None, secondary_key=None)
