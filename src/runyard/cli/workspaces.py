"""runyard workspace ..."""

import typer

from runyard.cli.server import Json
from runyard.cli.shown import show, shown_time, tell
from runyard.sdk.session import current_server
from runyard.sdk.workspace import Workspace

#: Where this folder names its workspace.
CONFIG = ".azureml/config.json"

commands = typer.Typer(no_args_is_help=True, help="Workspaces of the server.")


@commands.command("create")
def create_workspace(name: str, as_json: Json = False) -> None:
    """Make a workspace, and a config file for it in this folder."""
    found = Workspace.create(name, exist_ok=True)
    found.write_config()
    record = {**found.get_details(), "config": CONFIG}
    tell(record, as_json, f"{name}; {CONFIG} names it for this folder.")


@commands.command("list")
def list_workspaces(as_json: Json = False) -> None:
    """List workspaces."""
    found = current_server().call("list_workspaces")
    show(found, as_json, ("Workspace", "Made", "By"), [(w.name, shown_time(w.created_at), w.created_by) for w in found])
