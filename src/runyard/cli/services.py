"""runyard deploy, and runyard service ..."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, List, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import say, show, show_facts, shown_time, tell
from runyard.errors import UserErrorException
from runyard.protocol.services import Access, Autoscale, Deployment, Service, ServiceChange, ServiceReplica
from runyard.sdk.compute_target import ComputeTarget
from runyard.sdk.deployment import deploy
from runyard.sdk.deployment_configuration import (
    AciServiceDeploymentConfiguration,
    AksServiceDeploymentConfiguration,
    LocalWebserviceDeploymentConfiguration,
    WebserviceDeploymentConfiguration,
)
from runyard.sdk.environment import Environment
from runyard.sdk.inference_config import InferenceConfig
from runyard.sdk.model import Model
from runyard.sdk.webservice import Webservice
from runyard.sdk.workspace import Workspace

#: Between two looks at a log that is followed, seconds.
FOLLOW_S = 1.0
_KINDS = {
    "aci": AciServiceDeploymentConfiguration,
    "aks": AksServiceDeploymentConfiguration,
    "local": LocalWebserviceDeploymentConfiguration,
}

#: Who may ask where nothing is said of it, by the kind; others: what the server has for all.
_BY_KIND = {"aks": Access.KEY}
#: Access, as a user reads it.
_OPEN_TO = {Access.OPEN: "anyone who reaches it", Access.KEY: "who has a key", Access.TOKEN: "who has a token"}

commands = typer.Typer(no_args_is_help=True, help="Models that answer over HTTP.")

Models = Annotated[Optional[List[str]], typer.Option("--model", help="name, or name:version; may be given again.")]
Script = Annotated[Optional[str], typer.Option(help="A Python file with init() and run(data); else no code is needed.")]
Source = Annotated[
    Optional[str],
    typer.Option(
        help="A folder that is sent with the script, and to which --script is relative; else the one it lies in."
    ),
]
EnvironmentName = Annotated[
    Optional[str], typer.Option("--environment", help="A registered environment for the script.")
]
CondaFile = Annotated[Optional[str], typer.Option(help="A conda file for the script, instead of --environment.")]
Wait = Annotated[bool, typer.Option(help="Wait until it answers.")]


def deploy_service(
    name: str,
    model: Models = None,
    script: Script = None,
    source: Source = None,
    environment: EnvironmentName = None,
    conda_file: CondaFile = None,
    kind: Annotated[str, typer.Option(help="aci, aks or local: v1's words, which differ in their defaults.")] = "aci",
    target: Annotated[
        Optional[str], typer.Option("--target", "-t", help="A cluster whose runs the replicas are; else this host.")
    ] = None,
    port: Annotated[int, typer.Option(help="0: one that is free.")] = 0,
    replicas: Annotated[
        int, typer.Option(help="Processes that share the requests; with --max-replicas, the least.")
    ] = 1,
    max_replicas: Annotated[Optional[int], typer.Option(help="Scale up to so many, by requests under way.")] = None,
    auth: Annotated[
        Optional[bool],
        typer.Option(help="Ask for a key; else as the kind has it: aks yes, aci and local only beyond this machine."),
    ] = None,
    cpu: Annotated[
        Optional[float], typer.Option(help="Cores that a replica has where others want them too; so many threads.")
    ] = None,
    cpu_limit: Annotated[Optional[float], typer.Option(help="Cores whose time a replica may take.")] = None,
    memory: Annotated[Optional[float], typer.Option(help="GB that are left to a replica.")] = None,
    memory_limit: Annotated[Optional[float], typer.Option(help="GB that a replica may take.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 60.0,
    logged_share: Annotated[float, typer.Option(help="Share of the requests that are logged, 0 to 1.")] = 0.0,
    overwrite: Annotated[bool, typer.Option(help="Replace a service of that name.")] = False,
    wait: Wait = True,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Deploy a model as a web service."""
    if not model and script is None:
        raise UserErrorException("What should be deployed? Give --model NAME, or --script FILE, or both.")
    found = find_workspace(workspace)
    if kind not in _KINDS:
        raise UserErrorException(f"A service's kind is aci, aks or local, not {kind!r}.")
    scale = None if max_replicas is None else Autoscale(min_replicas=replicas, max_replicas=max_replicas)
    access = _BY_KIND.get(kind) if auth is None else Access.KEY if auth else Access.OPEN
    config: WebserviceDeploymentConfiguration = _KINDS[kind](
        Deployment(
            cpu=cpu, cpu_limit=cpu_limit, memory_gb=memory, memory_gb_limit=memory_limit, access=access,
            replicas=replicas, autoscale=scale, timeout_s=timeout,
            logged_share=logged_share, port=port,
        )
    )  # fmt: skip
    inference = _inference(found, script, source, environment, conda_file)
    models = [_model(found, one) for one in model or ()]
    made = deploy(
        found, name, models, inference, config,
        None if target is None else ComputeTarget(found, target), overwrite,
    )  # fmt: skip
    _finish(made, wait, as_json)


@commands.command("list")
def list_services(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List services."""
    found: List[Service] = find_workspace(workspace)._call("list_services")
    rows = [
        (s.spec.name, s.state, ", ".join(s.spec.models), s.replicas, s.statistics.requests, s.scoring_uri)
        for s in found
    ]
    show(found, as_json, ("Service", "State", "Models", "Replicas", "Requests", "Address"), rows)


@commands.command("show")
def show_service(name: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Show a service: how it is, where it is, what it has answered."""
    place = find_workspace(workspace)
    found: Service = place._call("get_service", name=name)
    counts = found.statistics
    facts = (
        ("Service", found.spec.name),
        ("State", found.state),
        ("Waits for", found.reason),
        ("Error", found.error),
        ("Answers by", found.how),
        ("Models", ", ".join(found.spec.models)),
        ("Revision", _revision(found)),
        ("Replicas", _replicas(found)),
        ("On", found.spec.deployment.target or "this server's host"),
        *((f"Run {one.run_id}", _replica(one)) for one in found.replica_runs),
        ("Scoring", found.scoring_uri),
        ("Open to", _OPEN_TO.get(found.access, found.access)),
        ("Requests", f"{counts.requests} ({counts.failed} failed, {counts.in_flight} under way)"),
        ("Latency", _latency(found)),
        ("Deployed", f"{shown_time(found.created_at)} by {found.created_by}"),
    )
    show_facts(found, as_json, facts)


@commands.command("revisions")
def list_revisions(name: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List what a service was, newest first."""
    found = find_workspace(workspace)._call("list_service_revisions", name=name)
    rows = [
        (
            one.number,
            ", ".join(one.spec.models),
            shown_time(one.created_at),
            one.created_by,
            "never" if one.answered_at is None else shown_time(one.answered_at),
        )
        for one in found
    ]
    show(found, as_json, ("Revision", "Models", "Made", "By", "Answers since"), rows)


@commands.command("logs")
def show_logs(
    name: str,
    lines: Annotated[int, typer.Option(help="So many of the last ones.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    workspace: WorkspaceName = None,
) -> None:
    """Print what a service's processes have said."""
    service = Webservice(find_workspace(workspace), name)
    before = service.get_logs(lines)
    sys.stdout.write(before)
    while follow:
        sys.stdout.flush()
        time.sleep(FOLLOW_S)
        after = service.get_logs(1_000_000)
        # The end of what was shown is where the new part begins; a log that was cut begins anew.
        last = before[-2_000:]
        sys.stdout.write(after[after.rindex(last) + len(last) :] if last in after else after)
        before = after


@commands.command("score")
def score(
    name: str,
    data: Annotated[str, typer.Argument(help="JSON; @FILE reads it from a file, - from the standard input.")],
    workspace: WorkspaceName = None,
) -> None:
    """Send a service one request; prints its answer."""
    if data == "-":
        body = sys.stdin.buffer.read()
    elif data.startswith("@"):
        if not Path(data[1:]).is_file():
            raise UserErrorException(f"There is no file {data[1:]!r} to send.")
        body = Path(data[1:]).read_bytes()
    else:
        body = data.encode("utf-8", "surrogateescape")
    answer = Webservice(find_workspace(workspace), name).run(body)
    if isinstance(answer, bytes):
        # A script may answer with an image, or anything else that is no JSON.
        sys.stdout.buffer.write(answer)
    else:
        show(answer, True)


@commands.command("update")
def update_service(
    name: str,
    model: Models = None,
    script: Script = None,
    source: Source = None,
    environment: EnvironmentName = None,
    conda_file: CondaFile = None,
    replicas: Annotated[Optional[int], typer.Option(help="Processes that share the requests; ends scaling.")] = None,
    auth: Annotated[Optional[bool], typer.Option(help="Ask for a key.")] = None,
    wait: Wait = True,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Change a service; what answers now goes on until the change can."""
    if all(one is None for one in (model, script, source, environment, conda_file, replicas, auth)):
        raise UserErrorException("Nothing to change was given: see runyard service update --help.")
    found = find_workspace(workspace)
    service = Webservice(found, name)
    deployment = service._record.spec.deployment
    if replicas is not None:
        deployment = replace(deployment, replicas=replicas, autoscale=None)
    if auth is not None:
        deployment = replace(deployment, access=Access.KEY if auth else Access.OPEN)
    config = _inference(found, script, source, environment, conda_file)
    service._change(
        ServiceChange(
            models=None if model is None else tuple(_model(found, one).id for one in model),
            entry=None if config is None else config.send(found),
            deployment=None if deployment == service._record.spec.deployment else deployment,
        )
    )
    _finish(service, wait, as_json)


@commands.command("rollback")
def rollback_service(name: str, wait: Wait = True, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Go back one step, to what answered before the present revision; a second time takes that back."""
    service = Webservice(find_workspace(workspace), name)
    service.rollback()
    _finish(service, wait, as_json)


@commands.command("keys")
def show_keys(
    name: str,
    renew: Annotated[Optional[str], typer.Option(help="primary or secondary: make that key anew first.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show a service's keys."""
    service = Webservice(find_workspace(workspace), name)
    if renew is not None:
        service.regen_key(renew)
    primary, secondary = service.get_keys()
    show_facts({"primary": primary, "secondary": secondary}, as_json, (("Primary", primary), ("Secondary", secondary)))


@commands.command("delete")
def delete_service(name: str, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """End a service."""
    Webservice(find_workspace(workspace), name).delete()
    tell({"service": name, "deleted": True}, as_json, f"{name} deleted.")


def _model(workspace: Workspace, asked: str) -> Model:
    name, _, version = asked.rpartition(":")
    return Model(workspace, name, version=int(version)) if name and version.isdigit() else Model(workspace, asked)


def _inference(
    workspace: Workspace,
    script: Optional[str],
    source: Optional[str],
    environment: Optional[str],
    conda_file: Optional[str],
) -> Optional[InferenceConfig]:
    if script is None:
        for option, given in (("--source", source), ("--environment", environment), ("--conda-file", conda_file)):
            if given is not None:
                raise UserErrorException(f"{option} belongs to a script: give --script too.")
        return None
    if (environment is None) == (conda_file is None):
        raise UserErrorException("A script needs --environment or --conda-file, and not both.")
    if environment is not None:
        found = Environment.get(workspace, environment)
    else:
        found = Environment.from_conda_specification("inference", str(conda_file))
    return InferenceConfig(script, source_directory=source, environment=found)


def _finish(service: Webservice, wait: bool, as_json: bool) -> None:
    """Wait, with a line for each thing that is waited for; then say where it is."""
    if wait:
        try:
            service.wait_for_deployment(show_output=not as_json and sys.stdout.isatty())
        except KeyboardInterrupt:
            say(f"\n{service.name} goes on without this command: runyard service show {service.name}")
            raise
    record: Any = service._record
    name = record.spec.name
    where = f" at {record.scoring_uri}" if record.scoring_uri else ""
    tell(record, as_json, f"{name} is {record.state}{where}")
    if not as_json:
        say(f"Next: runyard service score {name} @request.json, or: runyard service show {name}")


def _revision(found: Service) -> str:
    """Which answers, and which is to."""
    if found.serving_revision == found.revision:
        return str(found.revision)
    answers = f"{found.serving_revision} answers" if found.serving_revision else "none answers"
    return f"{answers}, {found.revision} is to"


def _replicas(found: Service) -> str:
    """So many have the model loaded, and so many there should be."""
    scale = found.spec.deployment.autoscale
    if scale is not None:
        return f"{found.replicas} ({scale.min_replicas} to {scale.max_replicas}, by requests under way)"
    asked = found.spec.deployment.replicas
    return str(found.replicas) if found.replicas == asked else f"{found.replicas} of {asked}"


def _replica(one: ServiceReplica) -> str:
    """How a run is that is a replica."""
    how = "answers" if one.is_ready else f"{one.status}: {one.reason}" if one.reason else one.status
    return f"revision {one.revision}, {how}" + (f", on {one.node}" if one.node else "")


def _latency(found: Service) -> str:
    seen = found.statistics.latency
    if not found.statistics.requests:
        return ""
    return f"half within {seen.p50 * 1000:.3g} ms, 99 % within {seen.p99 * 1000:.3g} ms"
