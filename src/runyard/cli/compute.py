"""runyard compute ..."""

import time
from typing import Annotated, List, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import show, tell
from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import DEFAULT_VM_SIZE, ClusterChange, ClusterSpec, VmPriority
from runyard.protocol.words import counted, is_or_are
from runyard.sdk.aml_compute import AmlCompute
from runyard.sdk.aml_compute_status import state_of
from runyard.sdk.attached_compute import from_settings
from runyard.sdk.compute_target import ComputeTarget
from runyard.sdk.workspace import Workspace

#: Between two looks at what is waited for, seconds.
LOOK_S = 1.0

commands = typer.Typer(no_args_is_help=True, help="Clusters, of this host's nodes or attached.")


@commands.command("list")
def list_clusters(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List clusters."""
    found = find_workspace(workspace)._call("list_clusters")
    rows = [
        (c.name, _size(c.spec), f"{c.spec.min_nodes}..{c.spec.max_nodes}", c.current_node_count, len(c.stuck) or "",
         c.waiting_runs)
        for c in found
    ]  # fmt: skip
    show(found, as_json, ("Cluster", "Size", "Nodes", "Now", "Stuck", "Waiting runs"), rows)
    for sentence in [] if as_json else [f"{c.name}: {one}" for c in found for one in c.stuck]:
        typer.echo(sentence, err=True)


def _size(spec: ClusterSpec) -> str:
    """Of its nodes; of an attached target what it was told, else of which kind it is."""
    return spec.vm_size if spec.engine is None else spec.engine.settings.get("vm_size", spec.engine.kind)


@commands.command("show")
def show_cluster(name: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Show a cluster's nodes."""
    found = find_workspace(workspace)._call("get_cluster", name=name)
    if found.spec.has_own_queue and not as_json:
        typer.echo(f"The nodes are its engine's own; runs there: {', '.join(found.runs) or 'none'}.")
    else:
        show(found, as_json, ("Node", "State", "Run"), [(n.id, state_of(n), n.run_id) for n in found.nodes])
    for sentence in [] if as_json else (*found.errors, *found.stuck):
        typer.echo(sentence, err=True)


@commands.command("create")
def create_cluster(
    name: str,
    size: Annotated[str, typer.Option(help="A VM size, as STANDARD_NC6.")] = DEFAULT_VM_SIZE,
    min_nodes: Annotated[int, typer.Option()] = 0,
    max_nodes: Annotated[int, typer.Option()] = 4,
    idle_seconds: Annotated[int, typer.Option(help="An idle node leaves after so many seconds.")] = 1800,
    priority: Annotated[
        str, typer.Option(help="dedicated, or lowpriority: runs start again when their machine is lost.")
    ] = VmPriority.DEDICATED,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Make a cluster."""
    config = AmlCompute.provisioning_configuration(
        vm_size=size,
        vm_priority=priority,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        idle_seconds_before_scaledown=idle_seconds,
    )
    found = ComputeTarget.create(find_workspace(workspace), name, config)
    rows = [(found.name, found.vm_size, found._record.spec.vm_priority)]
    show(found._record, as_json, ("Cluster", "Size", "Priority"), rows)


@commands.command("update")
def update_cluster(
    name: str,
    min_nodes: Annotated[Optional[int], typer.Option(help="So many nodes stay.")] = None,
    max_nodes: Annotated[Optional[int], typer.Option(help="So many nodes come at the most.")] = None,
    idle_seconds: Annotated[Optional[int], typer.Option(help="An idle node leaves after so many seconds.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Change a cluster's bounds; what is not named stays as it is."""
    if min_nodes is None and max_nodes is None and idle_seconds is None:
        raise UserErrorException("Say what changes: --min-nodes, --max-nodes or --idle-seconds.")
    found = ComputeTarget(find_workspace(workspace), name)
    found.update(min_nodes, max_nodes, idle_seconds)
    spec = found._record.spec
    rows = [(found.name, f"{spec.min_nodes}..{spec.max_nodes}", spec.idle_seconds_before_scaledown)]
    show(found._record, as_json, ("Target", "Nodes", "Idle seconds"), rows)


@commands.command("attach")
def attach_engine(
    name: str,
    kind: Annotated[str, typer.Argument(help="What is attached: slurm, ray or ssh.")],
    settings: Annotated[
        Optional[List[str]],
        typer.Option(
            "--set", help="A setting, as partition=gpu; vm_priority is one of any kind, max_nodes of slurm and ray."
        ),
    ] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Make machines that are there already a compute target."""
    pairs = [one.partition("=") for one in settings or []]
    asked = {name.strip(): text.strip() for name, _, text in pairs}
    priority = asked.pop("vm_priority", VmPriority.DEDICATED)
    found = ComputeTarget.attach(find_workspace(workspace), name, from_settings(kind, asked, priority))
    show(found._record, as_json, ("Target", "Kind"), [(found.name, found.type)])


@commands.command("evict")
def evict_node(name: str, node: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Take a node away now, as a cloud does with one of low priority: its run ends, and starts again if it may."""
    found = find_workspace(workspace)._call("remove_node", None, {"evict": 1}, name=name, node=node)
    tell(found, as_json, f"{node} of {name} is taken away.")


@commands.command("drain")
def drain_node(name: str, node: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Give a node no further run; it leaves when its present one has ended. A whole cluster: runyard compute stop."""
    found = find_workspace(workspace)._call("remove_node", name=name, node=node)
    tell(found, as_json, f"{node} of {name} leaves when its run has ended.")


@commands.command("stop")
def stop_cluster(
    name: str,
    now: Annotated[bool, typer.Option("--now", help="Take its nodes away now, as evict does.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Let no further run begin there; nodes leave as their runs end."""
    found = find_workspace(workspace)
    if now and found._call("get_cluster", name=name).spec.has_own_queue:
        raise ComputeTargetException(
            f"The nodes of {name!r} are its engine's own, and are not taken away from here; stop it without --now, and "
            "cancel the runs that are not to end by themselves."
        )
    cluster = found._call("change_cluster", ClusterChange(is_stopped=True), name=name)
    busy = [one for one in cluster.nodes if one.run_id is not None]
    for node in list(busy) if now else []:
        try:
            cluster = found._call("remove_node", None, {"evict": 1}, name=name, node=node.id.rpartition("/")[2])
        except ComputeTargetException:
            cluster = found._call("get_cluster", name=name)
            if any(one.id == node.id for one in cluster.nodes):
                raise
            # Its run has ended meanwhile, and it has left by itself.
            busy.remove(node)
    left = "idle"
    if busy and now:
        left = f"{counted(len(busy), 'node')} {is_or_are(len(busy))} taken away"
    elif busy:
        ends = "leaves when its run has ended" if len(busy) == 1 else "leave when their runs have ended"
        left = f"{counted(len(busy), 'node')} {ends}"
    if cluster.spec.has_own_queue and cluster.runs:
        goes_on = "goes on to its end" if len(cluster.runs) == 1 else "go on to their ends"
        left = f"{counted(len(cluster.runs), 'run')} there {goes_on}"
    tell(cluster, as_json, f"{name} is stopped ({left}). Start it again: runyard compute start {name}")


@commands.command("start")
def start_cluster(name: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Let runs begin there again."""
    found = find_workspace(workspace)._call("change_cluster", ClusterChange(is_stopped=False), name=name)
    tell(found, as_json, f"{name} is started.")


@commands.command("delete")
def delete_cluster(
    name: str,
    drain: Annotated[bool, typer.Option("--drain", help="Stop it, and wait until the runs there have ended.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Cancel the runs that use it or wait for it.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Delete a cluster; one that runs use only with --drain or --force."""
    found = find_workspace(workspace)
    if drain and not force:
        drain_cluster(found, name)
    told = ""
    while True:
        left = found._call("delete_cluster", None, {"force": int(force)}, name=name).count
        if not left:
            break
        ends = "has" if left == 1 else "have"
        told = _say(f"{name} is deleted once {counted(left, 'canceled run')} {ends} ended.", told)
        time.sleep(LOOK_S)
    tell({"name": name, "deleted": True}, as_json, f"{name} deleted.")


def drain_cluster(workspace: Workspace, name: str) -> None:
    """Stop it, and return once no run is there; those that only wait for it stay."""
    cluster = workspace._call("change_cluster", ClusterChange(is_stopped=True), name=name)
    told = ""
    while cluster.runs:
        told = _say("{} is stopped; waits for {}.".format(name, ", ".join(sorted(cluster.runs))), told)
        time.sleep(LOOK_S)
        cluster = workspace._call("get_cluster", name=name)


def _say(text: str, before: str) -> str:
    """Say what is waited for, where that is news."""
    if text != before:
        typer.echo(text, err=True)
    return text
