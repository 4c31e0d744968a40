"""runyard workspace, dataset, model ..."""

from typing import Annotated, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import show, shown_time
from runyard.sdk.dataset import Dataset
from runyard.sdk.model import Model
from runyard.sdk.session import current_server
from runyard.sdk.workspace import Workspace

workspaces = typer.Typer(no_args_is_help=True, help="Workspaces of the server.")
datasets = typer.Typer(no_args_is_help=True, help="Registered datasets.")
models = typer.Typer(no_args_is_help=True, help="Registered models.")


@workspaces.command("create")
def create_workspace(name: str) -> None:
    """Make a workspace, and a config file for it in this folder."""
    Workspace.create(name, exist_ok=True).write_config()
    print(f"{name}; .azureml/config.json names it for this folder.")


@workspaces.command("list")
def list_workspaces(as_json: Json = False) -> None:
    """List workspaces."""
    found = current_server().call("list_workspaces")
    show(found, as_json, ("Workspace", "Made", "By"), [(w.name, shown_time(w.created_at), w.created_by) for w in found])


@datasets.command("list")
def list_datasets(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List the latest version of each dataset."""
    found = find_workspace(workspace)._call("list_datasets")
    rows = [(d.name, d.version, len(d.sources), d.description, shown_time(d.created_at)) for d in found]
    show(found, as_json, ("Dataset", "Version", "Sources", "Description", "Registered"), rows)


@datasets.command("show")
def show_dataset(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show a dataset's files."""
    found = Dataset.get_by_name(find_workspace(workspace), name, version or "latest")
    paths = found.to_path()
    show({"dataset": found._record, "paths": paths}, as_json, ("File",), [(path,) for path in paths])


@datasets.command("register")
def register_dataset(
    name: str,
    path: Annotated[list[str], typer.Argument(help="A URL or local path; several may be given.")],
    description: Annotated[Optional[str], typer.Option()] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Register files where they lie under a name."""
    place = find_workspace(workspace)
    found = Dataset.File.from_files(path=list(path)).register(place, name, description, create_new_version=True)
    record = found._record
    show(record, as_json, ("Dataset", "Version"), [(found.name, found.version)])


@models.command("list")
def list_models(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List every version of every model."""
    found = find_workspace(workspace)._call("list_models")
    rows = [(m.name, m.version, m.framework, m.run_id, shown_time(m.created_at)) for m in found]
    show(found, as_json, ("Model", "Version", "Framework", "Run", "Registered"), rows)


@models.command("show")
def show_model(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show a model's files."""
    found = Model(find_workspace(workspace), name, version=version)._record
    rows = [(one.path, one.size_bytes, one.digest) for one in found.files]
    show(found, as_json, ("File", "Bytes", "Digest"), rows)


@models.command("download")
def download_model(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    to: Annotated[str, typer.Option(help="The folder.")] = ".",
    workspace: WorkspaceName = None,
) -> None:
    """Download a model."""
    print(Model(find_workspace(workspace), name, version=version).download(to, exist_ok=True))


@models.command("delete")
def delete_model(name: str, version: int, workspace: WorkspaceName = None) -> None:
    """Delete one version; its number is not given again."""
    Model(find_workspace(workspace), name, version=version).delete()
    print(f"{name}:{version} deleted.")
