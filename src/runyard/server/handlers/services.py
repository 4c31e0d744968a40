"""Web services: deployed, changed, asked about, deleted. Their requests do not come here."""

import secrets
import time
from dataclasses import replace
from functools import partial
from typing import Any, Dict, List, Tuple

from sqlalchemy import Connection, Row

from runyard.control.service_plan import check_models
from runyard.db import fleet, models, services
from runyard.errors import ConflictError, UserErrorException
from runyard.protocol.models import Model
from runyard.protocol.services import (
    Access,
    Autoscale,
    ComputeType,
    Deployment,
    KeyChange,
    ReplicaPlan,
    Service,
    ServiceChange,
    ServiceKeys,
    ServiceRevision,
    ServiceSpec,
    ServiceState,
    ServiceToken,
    first_count,
    labelled,
    needs_of,
    sign_token,
)
from runyard.protocol.trees import check_path
from runyard.protocol.wire import loads
from runyard.server import names
from runyard.server.call import Call, Content
from runyard.server.needs import check_needs

#: How long a token lets in, and from when on a new one should be fetched, seconds.
TOKEN_S, TOKEN_REFRESH_S = 12 * 3_600, 11 * 3_600
#: Most of a log that one reply holds, bytes.
LOG_MAX = 4 << 20
REPLICAS_MAX, KEY_MIN, KEY_MAX = 100, 16, 200
#: Of a replica's requests at once, that wait, and rows that go together; and of cores, GB and seconds between looks.
REQUESTS_MAX, REFRESH_MAX_S = 100_000, 86_400
#: A change begins anew where another one came first; so often at most.
CHANGE_TRIES = 10


def deploy_service(call: Call) -> Service:
    """A new service, or a new revision of one that may be overwritten; it is prepared after the reply."""
    spec: ServiceSpec = call.body
    names.check_service_name(spec.name)
    spec = _checked(call, spec)
    secret = call.parts.vault.lock(_keys(spec))

    def write(connection: Connection) -> None:
        row = services.find_row(connection, call.workspace, spec.name)
        values = {} if row is None or not spec.overwrite else {**_port(call, row, spec), **_given_keys(call, row, spec)}
        made = services.create_service(
            connection, secrets.token_hex(8), spec, secret, call.workspace, call.user, call.now
        )
        if values:
            services.change(connection, made.id, call.now, **values)

    call.parts.database.write(write)
    call.parts.services.ring()
    return _shown(call, spec.name)


def _given_keys(call: Call, row: Row[Any], spec: ServiceSpec) -> Dict[str, Any]:
    """The keys that come with a service that is overwritten are its keys from now on."""
    given = {"primary": spec.primary_key, "secondary": spec.secondary_key}
    keys = {name: key for name, key in given.items() if key is not None}
    return {"secret": call.parts.vault.lock({**call.parts.vault.unlock(row.secret), **keys})} if keys else {}


def _port(call: Call, row: Row[Any], spec: ServiceSpec) -> Dict[str, Any]:
    """The port of a service that does not listen yet; UserErrorException for another one of a service that does."""
    asked = spec.deployment.port
    if asked in (0, row.port):
        return {}
    if call.parts.services.is_listening(row):
        raise UserErrorException(
            f"Service {row.name!r} listens on port {row.port} for as long as it lives, not on {asked}; delete it and "
            "deploy it anew."
        )
    return {"port": asked}


def list_services(call: Call) -> List[Service]:
    """By name."""
    with call.parts.database.read() as connection:
        rows = services.list_rows(connection, call.workspace)
    return [call.parts.services.shown(row) for row in rows]


def get_service(call: Call) -> Service:
    """By name; where there is none, names that are near are told."""
    return call.parts.services.shown(_row(call))


def change_service(call: Call) -> Service:
    """Other labels, or others who may ask, at once; other models, another script or deployment as a new revision."""
    for _ in range(CHANGE_TRIES):
        row = _row(call)
        before = loads(ServiceSpec, row.spec)
        spec = _changed(_earlier(call, row) if call.body.rollback else before, call.body)
        has_parts = _needs_processes(before, spec, call.body)
        write = _write_revision if has_parts else _write_labels
        if call.parts.database.write(partial(write, call, row, _checked(call, spec) if has_parts else spec)):
            call.parts.services.ring()
            return _shown(call, row.name)
    raise ConflictError(f"Service {row.name!r} is being changed by others at this moment; try again.")


def _write_revision(call: Call, row: Row[Any], spec: ServiceSpec, connection: Connection) -> bool:
    """A new revision, with the labels of now; False where somebody else has made one since ``row`` was read."""
    present = services.get_row(connection, call.workspace, row.name)
    if (present.id, present.revision) != (row.id, row.revision):
        return False
    values = _port(call, present, spec)
    spec = labelled(spec, _changed(loads(ServiceSpec, present.spec), call.body))
    services.add_revision(connection, present, spec, call.user, call.now)
    if values:
        services.change(connection, present.id, call.now, **values)
    return True


def _write_labels(call: Call, row: Row[Any], _: ServiceSpec, connection: Connection) -> bool:
    """Other labels, and others who may ask, of what the service is by now."""
    present = services.get_row(connection, call.workspace, row.name)
    before = loads(ServiceSpec, present.spec)
    spec = labelled(before, _changed(before, call.body))
    if spec != before:
        _check_deployment(spec.deployment)
        services.change_labels(connection, present, spec, call.now)
    return True


def _needs_processes(before: ServiceSpec, spec: ServiceSpec, change: ServiceChange) -> bool:
    """Does it take a new revision?"""
    if change.models is not None or change.entry is not None or change.rollback or change.restart:
        return True
    return spec != labelled(before, spec)


def _changed(spec: ServiceSpec, change: ServiceChange) -> ServiceSpec:
    return replace(
        spec,
        models=spec.models if change.models is None else change.models,
        entry=spec.entry if change.entry is None else change.entry,
        deployment=spec.deployment if change.deployment is None else change.deployment,
        description=spec.description if change.description is None else change.description,
        tags=spec.tags if change.tags is None else change.tags,
        properties=spec.properties if change.properties is None else change.properties,
    )


def delete_service(call: Call) -> None:
    """End it; its name is free once it is gone."""
    row = _row(call)
    call.parts.database.write(lambda c: services.change(c, row.id, call.now, state=ServiceState.DELETING))
    call.parts.services.ring()


def list_service_revisions(call: Call) -> List[ServiceRevision]:
    """Newest first."""
    row = _row(call)
    with call.parts.database.read() as connection:
        return services.list_revisions(connection, row.id)


def get_service_keys(call: Call) -> ServiceKeys:
    """Either lets in; UserErrorException where tokens do."""
    row = _row(call)
    _check_takes_keys(row)
    keys = call.parts.services.keys_of(row)
    return ServiceKeys(keys["primary"], keys["secondary"])


def change_service_key(call: Call) -> ServiceKeys:
    """A new key in place of an old one, which no longer lets in a moment later."""
    change: KeyChange = call.body
    which = change.which.lower()
    if which not in ("primary", "secondary"):
        raise UserErrorException(f"A service has a Primary and a Secondary key, and no {change.which[:40]!r}.")
    if change.value is not None:
        _check_key(change.value)

    def write(connection: Connection) -> None:
        row = services.get_row(connection, call.workspace, call.path["name"])
        _check_takes_keys(row)
        keys = {**call.parts.vault.unlock(row.secret), which: change.value or secrets.token_urlsafe(24)}
        services.change(connection, row.id, call.now, secret=call.parts.vault.lock(keys))

    call.parts.database.write(write)
    call.parts.services.ring()
    return get_service_keys(call)


def _check_takes_keys(row: Row[Any]) -> None:
    if loads(ServiceSpec, row.spec).deployment.access == Access.TOKEN:
        raise UserErrorException(f"Service {row.name!r} takes tokens and no keys: get_token() makes one.")


def create_service_token(call: Call) -> ServiceToken:
    """A token that lets in for some hours; only where the service takes tokens."""
    row = _row(call)
    if loads(ServiceSpec, row.spec).deployment.access != Access.TOKEN:
        raise UserErrorException(f"Service {row.name!r} takes no tokens: deploy it with token_auth_enabled=True.")
    expiry = str(int(time.time()) + TOKEN_S)
    key = call.parts.services.keys_of(row)["token_key"]
    expires_at = int(expiry) * 1_000_000
    refresh_after = expires_at - (TOKEN_S - TOKEN_REFRESH_S) * 1_000_000
    return ServiceToken(f"{expiry}.{sign_token(key, expiry)}", refresh_after, expires_at)


def read_replica_plan(call: Call) -> ReplicaPlan:
    """What a run is told that is a replica of a service on a cluster."""
    return call.parts.services.replica_plan(call.workspace, call.path["run_id"])


def read_service_log(call: Call) -> Content:
    """The last lines of what its processes said."""
    count = call.integer("lines", 5_000, 1, 1_000_000)
    data = call.parts.services.log_of(_row(call), LOG_MAX)
    return Content(b"\n".join(data.splitlines()[-count:]) + b"\n" * bool(data), media_type="text/plain; charset=utf-8")


def _row(call: Call) -> Row[Any]:
    with call.parts.database.read() as connection:
        return services.get_row(connection, call.workspace, call.path["name"])


def _shown(call: Call, name: str) -> Service:
    with call.parts.database.read() as connection:
        row = services.get_row(connection, call.workspace, name)
    return call.parts.services.shown(row)


def _earlier(call: Call, row: Row[Any]) -> ServiceSpec:
    """What the last revision that has answered and differs from the present one by more than labels asked for."""
    with call.parts.database.read() as connection:
        known = services.list_revisions(connection, row.id)
    present = loads(ServiceSpec, row.spec)
    for one in known:
        if one.number < row.revision and one.answered_at is not None and labelled(one.spec, present) != present:
            return one.spec
    raise ConflictError(f"Service {row.name!r} has no earlier revision to go back to.")


def _checked(call: Call, spec: ServiceSpec) -> ServiceSpec:
    """The spec with exact models; UserErrorException says what cannot be."""
    if spec.compute_type not in (ComputeType.ACI, ComputeType.AKS, ComputeType.LOCAL):
        raise UserErrorException(f"A service's compute type is ACI, AKS or Local, not {spec.compute_type[:40]!r}.")
    if spec.entry is None and not spec.models:
        raise UserErrorException("A service has a model or an entry script.")
    found = [_model(call, one) for one in spec.models]
    check_models(spec, found)
    if spec.entry is not None:
        check_path(spec.entry.script)
        call.parts.store.size(spec.entry.snapshot)
        spec = replace(spec, entry=replace(spec.entry, environment=call.parts.sealer.seal_spec(spec.entry.environment)))
    _check_deployment(spec.deployment)
    spec = replace(spec, deployment=_placed(call, spec.deployment))
    for key in (spec.primary_key, spec.secondary_key):
        if key is not None:
            _check_key(key)
    return replace(spec, models=tuple(one.id for one in found))


def _model(call: Call, asked: str) -> Model:
    """ "name:version", or a name for its latest version."""
    name, _, version = asked.rpartition(":")
    with call.parts.database.read() as connection:
        if name and version.isdigit():
            return models.get_model(connection, call.workspace, name, int(version))
        return models.get_model(connection, call.workspace, asked, None)


def _check_deployment(asked: Deployment) -> None:
    scale: Tuple[Autoscale, ...] = (asked.autoscale,) if asked.autoscale is not None else ()
    counts = [asked.replicas, *(one.min_replicas for one in scale), *(one.max_replicas for one in scale)]
    for count in counts:
        if not 1 <= count <= REPLICAS_MAX:
            raise UserErrorException(f"A service has 1 to {REPLICAS_MAX} replicas, not {count}.")
    for one in scale:
        if one.min_replicas > one.max_replicas:
            raise UserErrorException(
                f"The least number of replicas ({one.min_replicas}) is larger than the largest ({one.max_replicas})."
            )
        if not 1 <= one.target_utilization <= 100 or not 0 < one.refresh_s <= REFRESH_MAX_S:
            raise UserErrorException(
                "autoscale_target_utilization is 1 to 100, and autoscale_refresh_seconds above 0 and at most "
                f"{REFRESH_MAX_S:,}."
            )
    if not 0.001 <= asked.timeout_s <= 3_600:
        raise UserErrorException(f"scoring_timeout_ms is from 1 to 3,600,000, not {asked.timeout_s * 1000:g}.")
    if asked.wait_s is not None and not 0 < asked.wait_s <= 3_600:
        raise UserErrorException(f"max_request_wait_time is up to 3,600,000, not {asked.wait_s * 1000:g}.")
    if asked.access not in (None, Access.OPEN, Access.KEY, Access.TOKEN):
        raise UserErrorException(f"Access is open, key or token, not {str(asked.access)[:40]!r}.")
    check_needs(needs_of(asked), {"gpu_cores": asked.gpu})
    if not 0 <= asked.port <= 65_535:
        raise UserErrorException(f"A port is from 1 to 65535, or 0 for any that is free, not {asked.port}.")
    if not all(
        1 <= one <= REQUESTS_MAX for one in (asked.batch_rows, asked.queued_requests, asked.concurrent_requests)
    ):
        raise UserErrorException(
            f"Rows that go together, requests that wait, and replica_max_concurrent_requests are 1 to {REQUESTS_MAX:,}."
        )
    if not 0 <= asked.logged_share <= 1:
        raise UserErrorException(f"The share of logged requests is 0 to 1, not {asked.logged_share}.")


def _placed(call: Call, asked: Deployment) -> Deployment:
    """With the cluster that has its replicas, or none where the target is this host; UserErrorException: too small."""
    if not asked.target:
        return asked
    names.check_compute_name(asked.target)
    with call.parts.database.read() as connection:
        cluster = fleet.get_cluster(connection, call.workspace, asked.target).spec
    if cluster.engine is None:
        return replace(asked, target="")
    wanted = first_count(asked)
    if wanted > cluster.max_nodes:
        raise UserErrorException(
            f"Each replica is a run on a node of its own, and compute target {cluster.name!r} has at most "
            f"{cluster.max_nodes} nodes, not {wanted}; ask for fewer replicas."
        )
    return asked


def _check_key(key: str) -> None:
    if not KEY_MIN <= len(key) <= KEY_MAX or not key.isascii() or not key.isprintable() or " " in key:
        raise UserErrorException(f"A key has {KEY_MIN} to {KEY_MAX} printable ASCII characters and no blank.")


def _keys(spec: ServiceSpec) -> "dict[str, str]":
    return {
        "primary": spec.primary_key or secrets.token_urlsafe(24),
        "secondary": spec.secondary_key or secrets.token_urlsafe(24),
        "token_key": secrets.token_hex(32),
    }
