"""runyard model ..."""

from typing import Annotated, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import show, shown_time, tell
from runyard.sdk.model import Model

commands = typer.Typer(no_args_is_help=True, help="Registered models.")


@commands.command("list")
def list_models(workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """List every version of every model."""
    found = find_workspace(workspace)._call("list_models")
    rows = [(m.name, m.version, m.framework, m.run_id, shown_time(m.created_at)) for m in found]
    show(found, as_json, ("Model", "Version", "Framework", "Run", "Registered"), rows)


@commands.command("show")
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


@commands.command("download")
def download_model(
    name: str,
    version: Annotated[Optional[int], typer.Option(help="Else the latest.")] = None,
    to: Annotated[str, typer.Option(help="The folder.")] = ".",
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Download a model."""
    found = Model(find_workspace(workspace), name, version=version)
    path = found.download(to, exist_ok=True)
    tell({"model": found.name, "version": found.version, "path": path}, as_json, path)


@commands.command("delete")
def delete_model(name: str, version: int, workspace: WorkspaceName = None, as_json: Json = False) -> None:
    """Delete one version; its number is not given again."""
    Model(find_workspace(workspace), name, version=version).delete()
    tell({"model": name, "version": version, "deleted": True}, as_json, f"{name}:{version} deleted.")
