"""runyard dataset ..."""

from typing import Annotated, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import show, shown_time
from runyard.sdk.abstract_dataset import AbstractDataset
from runyard.sdk.dataset import Dataset
from runyard.sdk.tabular_dataset import TabularDataset

commands = typer.Typer(no_args_is_help=True, help="Registered datasets.")


@commands.command("list")
def list_datasets(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List the latest version of each dataset."""
    found = find_workspace(workspace)._call("list_datasets")
    rows = [(d.name, d.version, d.kind, len(d.sources), d.description, shown_time(d.created_at)) for d in found]
    show(found, as_json, ("Dataset", "Version", "Kind", "Sources", "Description", "Registered"), rows)


@commands.command("show")
def show_dataset(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show a dataset's files; of a table its steps too."""
    found = Dataset.get_by_name(find_workspace(workspace), name, version or "latest")
    if isinstance(found, TabularDataset):
        facts = found._facts()
        shown = {"dataset": found._record, "steps": [text for what, text in facts if what != "file"]}
        paths = [text for what, text in facts if what == "file"]
        show({**shown, "paths": paths}, as_json, ("Table", ""), facts)
        return
    paths = found.to_path()
    show({"dataset": found._record, "paths": paths}, as_json, ("File",), [(path,) for path in paths])


@commands.command("runs")
def list_dataset_runs(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """List the runs that read a dataset, and the one that made it."""
    place = find_workspace(workspace)
    found = Dataset.get_by_name(place, name, version or "latest")
    uses = place._call("list_dataset_runs", dataset_id=found.id)
    rows = [(use.run_id, use.direction, use.name, shown_time(use.at)) for use in uses]
    show(uses, as_json, ("Run", "As", "Name", "When"), rows)


@commands.command("register")
def register_dataset(
    name: str,
    path: Annotated[list[str], typer.Argument(help="A URL or local path; several may be given.")],
    description: Annotated[Optional[str], typer.Option()] = None,
    tabular: Annotated[bool, typer.Option("--tabular", help="A table of them; their names tell the format.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Register files where they lie under a name."""
    place = find_workspace(workspace)
    made: AbstractDataset = Dataset.auto_read_files(list(path)) if tabular else Dataset.File.from_files(list(path))
    found = made.register(place, name, description, create_new_version=True)
    record = found._record
    show(record, as_json, ("Dataset", "Version"), [(found.name, found.version)])
