"""runyard run ..., runyard why."""

import sys
from typing import Annotated, Optional

import typer

from runyard.cli.place import find_run, find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import say, show, show_facts, shown_time, tell
from runyard.errors import UserErrorException
from runyard.protocol.attempt_logs import log_of_attempt
from runyard.protocol.runs import RunStatus
from runyard.protocol.words import counted
from runyard.sdk.environment import Environment
from runyard.sdk.experiment import Experiment
from runyard.sdk.run import Run
from runyard.sdk.run_record import iterate_runs, read_log
from runyard.sdk.run_snapshot import download_snapshot
from runyard.sdk.run_watch import SCRIPT_LOG, follow_log, wait_for_completion
from runyard.sdk.script_run_config import ScriptRunConfig
from runyard.sdk.workspace import Workspace

#: Bytes.
GIB = 1 << 30

commands = typer.Typer(no_args_is_help=True, help="Submit and watch runs.")
RunName = Annotated[str, typer.Argument(metavar="RUN", help="An id, the beginning of one, or 'latest'.")]


@commands.command()
def submit(
    folder: Annotated[str, typer.Argument(help="The source folder.")],
    arguments: Annotated[Optional[list[str]], typer.Argument(help="The script's arguments, after --.")] = None,
    script: Annotated[str, typer.Option("--script", "-s", help="The script in the folder.")] = "train.py",
    experiment: Annotated[str, typer.Option("--experiment", "-e")] = "default",
    env: Annotated[Optional[str], typer.Option(help="A conda file.")] = None,
    env_name: Annotated[Optional[str], typer.Option(help="A registered or curated environment.")] = None,
    target: Annotated[str, typer.Option("--target", "-t", help="A compute target.")] = "local",
    tag: Annotated[Optional[list[str]], typer.Option(help="name=value; may be given again.")] = None,
    max_seconds: Annotated[Optional[int], typer.Option(help="End the run after so many seconds.")] = None,
    priority: Annotated[int, typer.Option(help="Of the runs that wait, those of a higher one come first.")] = 0,
    max_infrastructure_retries: Annotated[
        Optional[int],
        typer.Option(help="Start again so often when the machine is lost; else as the target's priority says."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show the log and wait for the end.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Submit a folder's script."""
    place = find_workspace(workspace)
    config = ScriptRunConfig(
        source_directory=folder,
        script=script,
        arguments=list(arguments or []),
        compute_target=target,
        environment=_environment(place, env, env_name),
        max_run_duration_seconds=max_seconds,
    )
    config.run_config.priority = priority
    config.run_config.max_infrastructure_retries = max_infrastructure_retries
    tags = dict(one.partition("=")[::2] for one in tag or [])
    run = Experiment(place, experiment).submit(config, tags=tags)
    if as_json:
        show(run._known(), True)
    else:
        print(run.id)
        say(f"Follow it with: runyard run logs {run.id} -f")
    if follow:
        details = wait_for_completion(run, not as_json, raise_on_error=False)
        if details["status"] != RunStatus.COMPLETED:
            raise typer.Exit(4)


@commands.command("list")
def list_runs(
    experiment: Annotated[Optional[str], typer.Option("--experiment", "-e")] = None,
    status: Annotated[Optional[str], typer.Option(help="Only runs in that state.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    query = {"experiment": experiment, "status": status, "limit": limit}
    found = []
    for record in iterate_runs(find_workspace(workspace), query):
        found.append(record)
        if len(found) >= limit:
            break
    rows = [(r.id, r.experiment, r.status, r.target, shown_time(r.created_at), _seconds(r)) for r in found]
    show(found, as_json, ("Run", "Experiment", "Status", "Target", "Submitted", "Took"), rows)


@commands.command("show")
def show_run(
    run: RunName,
    usage: Annotated[bool, typer.Option("--usage", help="What its processes took of their nodes instead.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show one run: its state, why, its metrics and files."""
    found = find_run(find_workspace(workspace), run)
    if usage:
        _show_usage(found, as_json)
        return
    record = found._refresh()
    metrics = found.get_metrics()
    if as_json:
        show({"run": record, "metrics": metrics, "files": found.get_file_names()}, True)
        return
    facts = [
        ("Run", record.id),
        ("Experiment", record.experiment),
        ("Status", record.status),
        ("Waits for", record.reason if record.ended_at is None else ""),
        ("Target", record.target),
        ("Attempt", record.attempt if record.attempt > 1 else ""),
        ("Submitted", shown_time(record.created_at)),
        ("Took", _seconds(record)),
        ("Error", record.error.message if record.error else ""),
        ("Page", found.get_portal_url()),
    ]
    facts += [
        (f"Metric {name}", values[-1] if isinstance(values, list) else values) for name, values in metrics.items()
    ]
    facts += [("File", name) for name in found.get_file_names()]
    show_facts(record, False, facts)


def _show_usage(run: Run, as_json: bool) -> None:
    """Least, mean and greatest of each series, and the last."""
    found = run.get_usage()
    if as_json:
        show([(n, name, at.isoformat(), x) for n, by in found.items() for name, s in by.items() for at, x in s], True)
        return
    rows = []
    for node, series in sorted(found.items()):
        for name, values in sorted(series.items()):
            # Memory is read in GiB.
            divisor, unit = (GIB, "GiB") if name.endswith("_bytes") else (1.0, "%")
            seen = [value / divisor for _, value in values]
            told = (f"{x:.1f}" for x in (min(seen), sum(seen) / len(seen), max(seen), seen[-1]))
            rows.append((node, name.rpartition("_")[0], unit, *told, len(seen)))
    show(found, False, ("Node", "What", "In", "Least", "Mean", "Most", "Last", "Looks"), rows)


@commands.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    name: Annotated[str, typer.Option(help="Which log.")] = SCRIPT_LOG,
    attempt: Annotated[Optional[int], typer.Option(help="Of which attempt, from 1; else of the last.")] = None,
    workspace: WorkspaceName = None,
) -> None:
    """Print a run's log."""
    found = find_run(find_workspace(workspace), run)
    if attempt is not None and attempt != found._refresh().attempt:
        name = log_of_attempt(name, attempt)
    if follow:
        follow_log(found, name, _write)
        return
    names = [one.path for one in found._call("list_logs")]
    if name not in names:
        there = ", ".join(names) or "none yet"
        raise UserErrorException(f"Run {found.id} has no log {name!r}; there is: {there}.")
    _write(read_log(found, name).decode("utf-8", "replace"))


@commands.command()
def cancel(run: RunName, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Ask a run to end."""
    found = find_run(find_workspace(workspace), run)
    found.cancel()
    tell(found._known(), as_json, f"{found.id}: {found.status}")


@commands.command()
def download(
    run: RunName,
    prefix: Annotated[Optional[str], typer.Option(help="Only files below it, as outputs/model.")] = None,
    to: Annotated[Optional[str], typer.Option(help="The folder; else one named as the run.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Download a run's files."""
    found = find_run(find_workspace(workspace), run)
    folder = to or found.id
    found.download_files(prefix=prefix, output_directory=folder)
    tell({"run": found.id, "folder": folder}, as_json, folder)


@commands.command()
def snapshot(
    run: RunName,
    to: Annotated[Optional[str], typer.Option(help="The folder; else one named as the run.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over files that are there.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Download the source folder that a run was submitted with."""
    found = find_run(find_workspace(workspace), run)
    folder = to or found.id
    count = download_snapshot(found, folder, overwrite)
    tell({"run": found.id, "folder": folder, "files": count}, as_json, f"{folder}: {counted(count, 'file')}")


def why(run: RunName, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Say what a run waits for, and what would unblock it."""
    found = find_run(find_workspace(workspace), run)._call("explain_run")
    if as_json:
        show(found, True)
    else:
        print(found.text)


def _environment(workspace: Workspace, env: str | None, env_name: str | None) -> Environment | None:
    if env and env_name:
        raise UserErrorException("Give --env or --env-name, not both.")
    if env_name:
        return Environment.get(workspace, env_name)
    return Environment.from_conda_specification("from-file", env) if env else None


def _seconds(record: object) -> str:
    started, ended = getattr(record, "started_at", None), getattr(record, "ended_at", None)
    return "" if started is None or ended is None else f"{(ended - started) / 1e6:.1f} s"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
