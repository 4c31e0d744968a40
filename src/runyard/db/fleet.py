"""Clusters and their nodes; environment locks, which decide what a node builds."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any, List, Optional, Sequence, Tuple

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.near import did_you_mean
from runyard.db.tables import clusters, locks, nodes, runs
from runyard.errors import ComputeTargetException, ConflictError
from runyard.protocol.compute import Cluster, ClusterSpec, Node, NodeState
from runyard.protocol.environments import Lock
from runyard.protocol.runs import RunStatus
from runyard.protocol.wire import dumps, loads

#: How many runs tell how long the next one may take.
LATEST = 20
#: A run that waited for less had its environment from the cache, microseconds.
BUILD_US = 3_000_000

_ALL_CLUSTERS = select(clusters).order_by(clusters.c.workspace, clusters.c.name)
_ALL_NODES = select(nodes).order_by(nodes.c.id)
_LOCK_BY_SPEC = select(locks.c.body).where(locks.c.spec_digest == bindparam("spec"))
_LOCK_BY_DIGEST = select(locks.c.body).where(locks.c.digest == bindparam("lock")).limit(1)
_ASSIGN = (
    update(nodes)
    .where(nodes.c.id == bindparam("node"))
    .values(run_id=bindparam("run"), state=NodeState.RUNNING, since=bindparam("at"))
)
_FREE = (
    update(nodes)
    .where(nodes.c.run_id == bindparam("of_run"))
    .values(
        run_id=None,
        # One that is to leave leaves now.
        state=case((nodes.c.state == NodeState.RUNNING, NodeState.IDLE), else_=nodes.c.state),
        since=bindparam("at"),
    )
)


def read_fleet(connection: Connection) -> Tuple[List[Tuple[str, ClusterSpec]], Sequence[Row[Any]]]:
    """(workspace, settings) of every cluster, and every node: what the scheduler looks at."""
    found = [(row.workspace, _decoded(row.spec)) for row in connection.execute(_ALL_CLUSTERS)]
    return found, connection.execute(_ALL_NODES).all()


@lru_cache(maxsize=256)
def _decoded(spec: str) -> ClusterSpec:
    """Settings seldom change, and are read several times for each run."""
    return loads(ClusterSpec, spec)


def create_cluster(
    connection: Connection, spec: ClusterSpec, workspace: str, warnings: Sequence[str], user: str, now: int
) -> Cluster:
    """A new cluster; one of that name with the same spec is returned, with another spec is a ConflictError."""
    row = _cluster_row(connection, workspace, spec.name)
    if row is not None:
        known = loads(ClusterSpec, row.spec)
        if replace(known, is_stopped=False) != spec:
            sizes = f" (its vm_size is {known.vm_size}, not {spec.vm_size})" if known.vm_size != spec.vm_size else ""
            raise ConflictError(f"Compute target {spec.name!r} exists with other settings; update or delete it{sizes}.")
        return get_cluster(connection, workspace, spec.name)
    connection.execute(
        insert(clusters).values(
            name=spec.name, spec=dumps(spec), modified_at=now, warnings=json.dumps(list(warnings)),
            workspace=workspace, created_by=user, created_at=now,
        )
    )  # fmt: skip
    return get_cluster(connection, workspace, spec.name)


def get_cluster(connection: Connection, workspace: str, name: str) -> Cluster:
    """The cluster with its nodes; ComputeTargetException where there is none."""
    row = _cluster_row(connection, workspace, name)
    if row is None:
        near = did_you_mean(connection, clusters, workspace, name)
        raise ComputeTargetException(
            f"ComputeTargetNotFound: compute target {name!r} does not exist in workspace {workspace!r}.{near}"
        )
    return _cluster(connection, row)


def get_cluster_spec(connection: Connection, workspace: str, name: str) -> ClusterSpec:
    """Its settings as they are kept, with what is sealed in them; never to be shown."""
    get_cluster(connection, workspace, name)
    row = _cluster_row(connection, workspace, name)
    assert row is not None
    return loads(ClusterSpec, row.spec)


def list_clusters(connection: Connection, workspace: Optional[str] = None) -> List[Cluster]:
    """The workspace's clusters by name, or all of every workspace."""
    statement = select(clusters).order_by(clusters.c.workspace, clusters.c.name)
    if workspace is not None:
        statement = statement.where(clusters.c.workspace == workspace)
    return [_cluster(connection, row) for row in connection.execute(statement).all()]


def change_cluster(connection: Connection, workspace: str, name: str, spec: ClusterSpec, now: int) -> Cluster:
    """Replace a cluster's settings."""
    connection.execute(
        update(clusters)
        .where(clusters.c.workspace == workspace, clusters.c.name == name)
        .values(spec=dumps(spec), modified_at=now)
    )
    return get_cluster(connection, workspace, name)


def delete_cluster(connection: Connection, workspace: str, name: str) -> None:
    """Remove a cluster that no run uses; ConflictError names the runs otherwise."""
    get_cluster(connection, workspace, name)
    busy = connection.execute(_uses(workspace, name).limit(3)).scalars().all()
    if busy:
        raise ConflictError(
            "Compute target {!r} is in use by {}; wait for its runs or cancel them.".format(name, ", ".join(busy))
        )
    connection.execute(delete(nodes).where(nodes.c.workspace == workspace, nodes.c.cluster == name))
    connection.execute(delete(clusters).where(clusters.c.workspace == workspace, clusters.c.name == name))


def add_node(connection: Connection, node_id: str, workspace: str, cluster: str, now: int) -> None:
    """A node comes up, idle."""
    connection.execute(
        insert(nodes).values(
            id=node_id,
            cluster=cluster,
            state=NodeState.IDLE,
            since=now,
            workspace=workspace,
            created_by="control",
            created_at=now,
        )
    )


def assign_node(connection: Connection, node_id: str, run_id: str, now: int) -> None:
    """Give a node to a run."""
    connection.execute(_ASSIGN, {"node": node_id, "run": run_id, "at": now})


def free_nodes(connection: Connection, run_id: str, now: int) -> None:
    """The run's nodes are idle from now on."""
    connection.execute(_FREE, {"of_run": run_id, "at": now})


def retire_node(connection: Connection, workspace: str, name: str, node: str, evict: bool, now: int) -> Cluster:
    """Let a node leave when its run has ended, or (``evict``) now; ComputeTargetException where there is none."""
    if get_cluster(connection, workspace, name).spec.has_own_queue:
        raise ComputeTargetException(f"The nodes of {name!r} are its engine's own: Slurm's scontrol drains them.")
    state = NodeState.PREEMPTED if evict else NodeState.LEAVING
    known = connection.execute(
        update(nodes)
        .where(nodes.c.id == f"{workspace}/{name}/{node}")
        # Asked for again, it goes on leaving since the first time.
        .values(state=state, since=case((nodes.c.state == state, nodes.c.since), else_=now))
    ).rowcount
    if not known:
        raise ComputeTargetException(
            f"Compute target {name!r} has no node {node[:80]!r} now; list them with: runyard compute show {name}"
        )
    return get_cluster(connection, workspace, name)


def remove_node(connection: Connection, node_id: str) -> None:
    """A node leaves; only an idle one does."""
    connection.execute(delete(nodes).where(nodes.c.id == node_id, nodes.c.run_id.is_(None)))


def recent_durations(connection: Connection, workspace: Optional[str], target: str) -> List[int]:
    """How long the latest completed runs of a target took, microseconds; ``workspace`` None: of every one."""
    statement = select(runs.c.ended_at - runs.c.started_at).where(
        runs.c.target == target, runs.c.status == RunStatus.COMPLETED, runs.c.started_at.is_not(None)
    )
    if workspace is not None:
        statement = statement.where(runs.c.workspace == workspace)
    return _latest(connection, statement)


def recent_waits(connection: Connection, workspace: str, target: str) -> List[int]:
    """How long the latest runs of a target waited from the queue to their start, microseconds."""
    statement = select(runs.c.started_at - runs.c.queued_at).where(
        runs.c.workspace == workspace, runs.c.target == target, runs.c.started_at >= runs.c.queued_at
    )
    return _latest(connection, statement)


def recent_builds(connection: Connection, workspace: str) -> List[int]:
    """How long the latest runs waited for their environment where one was built, microseconds."""
    took = runs.c.queued_at - runs.c.created_at
    statement = select(took).where(
        runs.c.workspace == workspace, runs.c.attempt == 1, runs.c.started_at.is_not(None), took > BUILD_US
    )
    return _latest(connection, statement)


def _latest(connection: Connection, statement: "Select[Tuple[Any]]") -> List[int]:
    """What the statement finds in the latest runs."""
    return [int(one) for one in connection.execute(statement.order_by(runs.c.row.desc()).limit(LATEST)).scalars()]


def save_lock(connection: Connection, spec_digest: str, lock: Lock, user: str, now: int) -> None:
    """Remember the lock that a spec was resolved to."""
    statement = upsert(locks).values(
        spec_digest=spec_digest, digest=lock.digest, body=dumps(lock), workspace="", created_by=user, created_at=now
    )
    new = {"digest": statement.excluded.digest, "body": statement.excluded.body}
    connection.execute(statement.on_conflict_do_update(index_elements=["spec_digest"], set_=new))


def find_lock(connection: Connection, spec_digest: str) -> Optional[Lock]:
    """The lock of a spec that was resolved before; None otherwise."""
    text = connection.execute(_LOCK_BY_SPEC, {"spec": spec_digest}).scalar()
    return None if text is None else _lock(text)


def get_lock(connection: Connection, digest: str) -> Optional[Lock]:
    """The lock of that digest; None where it was never resolved here."""
    text = connection.execute(_LOCK_BY_DIGEST, {"lock": digest}).scalar()
    return None if text is None else _lock(text)


@lru_cache(maxsize=16)
def _lock(text: str) -> Lock:
    """Decoded once for the many runs that have the same one."""
    return loads(Lock, text)


def _cluster_row(connection: Connection, workspace: str, name: str) -> Optional[Row[Any]]:
    return connection.execute(
        select(clusters).where(clusters.c.workspace == workspace, clusters.c.name == name)
    ).first()


def list_uses(connection: Connection, workspace: str, name: str) -> List[str]:
    """The runs that have not ended and are, or will be, there."""
    return [str(one) for one in connection.execute(_uses(workspace, name)).scalars()]


def _uses(workspace: str, name: str) -> Any:
    return select(runs.c.id).where(runs.c.workspace == workspace, runs.c.target == name, runs.c.ended_at.is_(None))


def _cluster(connection: Connection, row: Row[Any]) -> Cluster:
    spec = loads(ClusterSpec, row.spec)
    found = connection.execute(
        select(nodes.c.id, nodes.c.state, nodes.c.run_id, nodes.c.since, runs.c.status)
        .join_from(nodes, runs, nodes.c.run_id == runs.c.id, isouter=True)
        .where(nodes.c.workspace == row.workspace, nodes.c.cluster == row.name)
        .order_by(nodes.c.id)
    )
    here = tuple(Node(n.id, n.state, n.run_id, n.since, n.status) for n in found)
    uses = _uses(row.workspace, row.name)
    waiting = connection.execute(
        select(func.count()).select_from(uses.where(runs.c.node.is_(None)).subquery())
    ).scalar_one()
    there = connection.execute(uses.where(runs.c.node.is_not(None)).order_by(runs.c.row)).scalars()
    target = _target(spec, here, _wanted_nodes(connection, row, spec) if waiting and not spec.is_stopped else ())
    return Cluster(
        name=row.name, workspace=row.workspace, spec=_shown(spec), created_by=row.created_by, created_at=row.created_at,
        modified_at=row.modified_at, allocation_state="Steady" if target == len(here) else "Resizing",
        current_node_count=len(here), target_node_count=target, nodes=here, waiting_runs=waiting, runs=tuple(there),
        warnings=tuple(json.loads(row.warnings)),
    )  # fmt: skip


def _wanted_nodes(connection: Connection, row: Row[Any], spec: ClusterSpec) -> Sequence[int]:
    """How many nodes each run wants that is ready for them, in their turns; as many runs as can ever start at once."""
    queued = select(runs.c.node_count).where(
        runs.c.workspace == row.workspace, runs.c.target == row.name, runs.c.status == RunStatus.QUEUED,
        runs.c.ended_at.is_(None), runs.c.node.is_(None),
    )  # fmt: skip
    return connection.execute(queued.order_by(runs.c.turn, runs.c.row).limit(spec.max_nodes)).scalars().all()


def _target(spec: ClusterSpec, here: Sequence[Node], wanted: Sequence[int]) -> int:
    """How many nodes the cluster is on its way to: those that stay, and those that come for runs that find none idle.

    The same as control's own decision, but for GPUs; nodes that have idled too long are counted until they leave.
    """
    if spec.has_own_queue:
        return len(here)
    staying = [node for node in here if node.state in (NodeState.IDLE, NodeState.RUNNING)]
    idle = sum(1 for node in staying if node.run_id is None)
    free = spec.max_nodes - (len(staying) - idle)
    needed = 0
    for count in wanted:
        if count <= free - needed:
            needed += count
    return min(spec.max_nodes, max(spec.lasting_nodes, len(staying) + max(0, needed - idle)))


def _shown(spec: ClusterSpec) -> ClusterSpec:
    """The settings without what is sealed in them."""
    return spec if spec.engine is None else replace(spec, engine=replace(spec.engine, secrets={}))
