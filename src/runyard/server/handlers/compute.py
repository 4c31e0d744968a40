"""Compute targets: made, listed, resized, deleted."""

import os
from dataclasses import replace
from typing import List, Tuple
from urllib.parse import urlsplit

from sqlalchemy import Connection

from runyard.compute.engines import check_engine, is_on_this_host, settled
from runyard.control import runs as life
from runyard.db import fleet, runs, workspaces
from runyard.errors import ComputeTargetException, ConflictError, PermissionDeniedError
from runyard.protocol.compute import (
    NO_RUN_STARTS,
    NODES_MAX,
    Cluster,
    ClusterChange,
    ClusterSpec,
    EngineKind,
    VmPriority,
    VmSize,
    changed_spec,
    find_vm_size,
    why_stuck,
)
from runyard.protocol.routes import ROLES, Permission
from runyard.protocol.runs import Count
from runyard.protocol.words import counted
from runyard.server.call import Call
from runyard.server.names import check_compute_name
from runyard.server.settings import LOOPBACK


def create_cluster(call: Call) -> Cluster:
    """A new cluster; what this host lacks of its size is said, or refused where the workspace is strict."""
    spec: ClusterSpec = call.body
    check_compute_name(spec.name)
    _check(spec)
    if spec.engine is not None:
        _check_may_attach(call)
        check_engine(spec.engine)
    elif find_vm_size(spec.vm_size) is None:
        raise ComputeTargetException(
            f"{spec.vm_size[:80]!r} is no name of a VM size; examples are STANDARD_D2_V2 and STANDARD_NC6."
        )
    warnings = _list_warnings(call, spec)
    with call.parts.database.read() as connection:
        workspace = workspaces.get_workspace(connection, call.workspace)
    if warnings and workspace.tags.get("compute") == "strict":
        raise ComputeTargetException(
            f"{warnings[0]} This workspace is strict (tag compute=strict), so the cluster is refused."
        )
    kept = call.parts.engines.seal(settled(spec, call.workspace, os.cpu_count() or 1))
    call.parts.engines.begin(kept)
    try:
        cluster = call.parts.database.write(
            lambda c: fleet.create_cluster(c, kept, call.workspace, warnings, call.user, call.now)
        )
    except ConflictError:
        # The other target has others of its own.
        call.parts.engines.end(kept)
        raise
    call.parts.loop.ring()
    return cluster


def list_clusters(call: Call) -> List[Cluster]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return [_watched(call, one) for one in fleet.list_clusters(connection, call.workspace)]


def get_cluster(call: Call) -> Cluster:
    """The cluster and its nodes."""
    with call.parts.database.read() as connection:
        return _watched(call, fleet.get_cluster(connection, call.workspace, call.path["name"]))


def _watched(call: Call, cluster: Cluster) -> Cluster:
    """With a word about each node that does not get on."""
    limit_us = call.parts.settings.node_stuck_minutes * 60_000_000
    nodes = (replace(node, stuck=why_stuck(node, call.now, limit_us)) for node in cluster.nodes)
    return replace(cluster, nodes=tuple(nodes))


def change_cluster(call: Call) -> Cluster:
    """Change its bounds; nodes beyond them leave once they are idle."""
    change: ClusterChange = call.body
    name = call.path["name"]

    def write(connection: Connection) -> Cluster:
        # Read here, where nobody else writes: two changes at once must both hold.
        before = fleet.get_cluster_spec(connection, call.workspace, name)
        spec = changed_spec(before, change)
        _check_change(before, spec)
        _check(spec)
        return fleet.change_cluster(connection, call.workspace, name, spec, call.now)

    cluster = call.parts.database.write(write)
    call.parts.loop.ring()
    return cluster


def delete_cluster(call: Call) -> Count:
    """Delete it, with what it has of its own, unless a run uses it; returns for how many runs it waits: 0, it is gone.

    With ``force`` it is stopped and its runs are canceled; whoever asks again once they have ended finds it gone.
    """
    name, is_forced = call.path["name"], bool(call.integer("force", 0, 0, 1))

    def write(connection: Connection) -> Tuple[ClusterSpec, int]:
        spec = fleet.get_cluster_spec(connection, call.workspace, name)
        if is_forced:
            for run_id in fleet.list_uses(connection, call.workspace, name):
                if not runs.get_run(connection, call.workspace, run_id).cancel_requested:
                    told = f"It was canceled with its compute target {name!r}, which {call.user} has deleted."
                    runs.add_warnings(connection, run_id, [told])
                life.request_cancel(connection, call.workspace, run_id, call.user, call.now)
            left = fleet.list_uses(connection, call.workspace, name)
            if left:
                fleet.change_cluster(connection, call.workspace, name, replace(spec, is_stopped=True), call.now)
                return spec, len(left)
        fleet.delete_cluster(connection, call.workspace, name)
        return spec, 0

    spec, left = call.parts.database.write(write)
    if left:
        call.parts.loop.ring()
    else:
        call.parts.engines.end(spec)
    return Count(left)


def remove_node(call: Call) -> Cluster:
    """Let a node go when its run has ended; with ``evict``, its run ends now, as on a machine that is taken away."""
    evict = bool(call.integer("evict", 0, 0, 1))
    cluster = call.parts.database.write(
        lambda c: fleet.retire_node(c, call.workspace, call.path["name"], call.path["node"], evict, call.now)
    )
    call.parts.loop.ring()
    return cluster


def _check_may_attach(call: Call) -> None:
    """Only owners attach: the machines get passwords of package indexes, and the server itself speaks with them."""
    role = "" if call.principal is None else call.principal.role
    if Permission.ADMIN not in ROLES.get(role, frozenset()):
        raise PermissionDeniedError(
            f"{call.user} may not attach machines, which get what environments are built with; ask an owner to."
        )


def _check_change(before: ClusterSpec, after: ClusterSpec) -> None:
    """What of a target of that kind can change; a sentence says what else helps."""
    if replace(before, is_stopped=after.is_stopped) == after:
        return
    if before.kind == EngineKind.LOCAL and not before.is_instance:
        return
    if before.kind == EngineKind.RAY and replace(before, max_nodes=after.max_nodes) == after:
        return
    instead = {
        EngineKind.LOCAL: "it is a ComputeInstance, one node that stays; make an AmlCompute for more",
        EngineKind.SSH: "it is one machine, for one run at a time; attach each further machine under a name of its own",
        EngineKind.SLURM: "Slurm's own queue says how many nodes a run gets, and its partition how many there are",
        EngineKind.RAY: "of a Ray cluster max_nodes alone can: Ray itself brings its nodes and takes them away",
    }
    how = instead.get(before.kind, "its engine says how many nodes it has")
    raise ComputeTargetException(f"{before.name!r} cannot be changed so: {how}.")


def _check(spec: ClusterSpec) -> None:
    """What holds of a cluster's bounds; quick, since a change is checked within a write."""
    if spec.vm_priority not in VmPriority.ALL:
        raise ComputeTargetException(f"vm_priority is {' or '.join(VmPriority.ALL)}, not {spec.vm_priority[:40]!r}.")
    if not 0 <= spec.min_nodes <= spec.max_nodes <= NODES_MAX or spec.max_nodes < 1:
        raise ComputeTargetException(
            f"Nodes go from 0 <= min_nodes <= max_nodes <= {NODES_MAX}; "
            f"min_nodes is {spec.min_nodes} and max_nodes {spec.max_nodes}."
        )
    if spec.kind == EngineKind.SSH and spec.max_nodes != 1:
        raise ComputeTargetException(f"A machine over SSH is one node; max_nodes is 1, not {spec.max_nodes}.")
    if spec.is_instance and (spec.min_nodes, spec.max_nodes) != (1, 1):
        raise ComputeTargetException("A ComputeInstance is one node; min_nodes and max_nodes are 1.")
    if spec.idle_seconds_before_scaledown < 0:
        raise ComputeTargetException("idle_seconds_before_scaledown is not negative.")


def _list_warnings(call: Call, spec: ClusterSpec) -> List[str]:
    """What keeps the runs of a new target from what they need, a sentence each."""
    if spec.engine is None:
        found = call.parts.gpus.list()
        return _shortages(spec, len(found), call.parts.gpus.trouble)
    if spec.kind == EngineKind.SSH:
        return call.parts.engines.list_warnings(spec.engine)
    if is_on_this_host(spec.engine):
        return []
    return _unreachable(call.parts.url)


def _unreachable(url: str) -> List[str]:
    """Do nodes of other machines reach this server?"""
    if urlsplit(url).hostname not in LOOPBACK:
        return []
    return [
        f"Nodes of other machines do not reach this server at {url}; start it with --host and RUNYARD_PUBLIC_URL, "
        "unless every node is this machine."
    ]


def _shortages(spec: ClusterSpec, gpus: int, trouble: str) -> List[str]:
    """What a node of that size has and this host has not, in one sentence; GPUs of a host that has too few: in another.

    Without any, a size is emulated; otherwise its runs wait for what will never be there. ``trouble``: why nobody knows
    how many there are.
    """
    size = find_vm_size(spec.vm_size)
    if size is None:
        return []
    found = [_guess(spec.vm_size, size)] if size.is_guess else []
    if 0 < gpus < size.gpus:
        has = f"a node has {counted(size.gpus, 'GPU')}, and this host {gpus}"
        return [*found, f"{NO_RUN_STARTS} on {spec.vm_size}: {has}."]
    if size.gpus and not gpus and trouble:
        asked = "When this target was made, the GPUs of this host could not be asked"
        found.append(f"{asked}: {trouble}; runs on {spec.vm_size} wait until they can be.")
    lacks = []
    if size.gpus and not gpus and not trouble:
        lacks.append("{} GPU{}".format(size.gpus, "s" if size.gpus > 1 else ""))
    if size.cpus > (os.cpu_count() or 1):
        lacks.append(f"{size.cpus} CPUs (it has {os.cpu_count()})")
    if lacks:
        missing = " and ".join(lacks)
        found.append(f"{spec.vm_size} is emulated: this host lacks {missing}; runs use what it has.")
    return found


def _guess(name: str, size: VmSize) -> str:
    """What was taken for a size that is in no table of ours."""
    cards = f" and {size.gpus} GPU" if size.gpus else ""
    return (
        f"{name} is not in the table of sizes: its number is taken for {size.cpus} CPUs, "
        f"and {size.memory_gib:g} GiB{cards} from its family."
    )
