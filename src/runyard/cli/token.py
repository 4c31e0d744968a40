"""runyard token ..."""

from typing import Annotated, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import say, show_facts, shown_time
from runyard.protocol.identity import PrincipalKind, Token, TokenSpec

DAY_S = 86_400

commands = typer.Typer(no_args_is_help=True, help="Tokens for other people, machines and services.")


@commands.callback()
def _group() -> None:
    """A group, although it has one command."""


@commands.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Who will hold it: shown with everything that is done with it.")],
    role: Annotated[str, typer.Option(help="reader, contributor or owner; of this workspace only.")] = "contributor",
    days: Annotated[Optional[int], typer.Option(min=1, help="It ends after so many days; without it, never.")] = None,
    user: Annotated[bool, typer.Option("--user", help="For a person, and not for a service.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Make a token for one workspace; its secret is shown this once."""
    kind = PrincipalKind.USER if user else PrincipalKind.SERVICE
    spec = TokenSpec(name, role, kind, None if days is None else days * DAY_S)
    place = find_workspace(workspace)
    made: Token = place._call("create_token", spec)
    facts = [("Token", made.secret), ("For", f"{made.name} ({made.kind})"), ("May", f"{made.role} of {place.name}")]
    show_facts(made, as_json, [*facts, ("Until", shown_time(made.expires_at) or "no end")])
    say("Shown this once. On the other machine: RUNYARD_SERVER=<this server's address> RUNYARD_TOKEN=<the token>")
