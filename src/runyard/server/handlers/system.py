"""The server itself: ping, information, stopping, tickets, tokens."""

import os
import signal

from runyard import __version__
from runyard.db import identity, runs
from runyard.errors import UserErrorException
from runyard.protocol.identity import Principal, PrincipalKind, Ticket, Token, TokenSpec
from runyard.protocol.routes import ROLES
from runyard.protocol.server import Ping, ServerInfo
from runyard.server.call import Call
from runyard.server.names import check_asset_name


async def ping(_call: Call) -> Ping:
    """The server answers; async, since it waits for nothing."""
    return Ping("runyard", __version__, 1)


def server_info(call: Call) -> ServerInfo:
    """Where it lives and what it does."""
    with call.parts.database.read() as connection:
        active = len(runs.active_rows(connection))
    settings = call.parts.settings
    return ServerInfo(
        __version__, str(settings.home), os.getpid(), call.parts.url, call.parts.started_at, active,
        call.parts.store.status(), settings.isolation, settings.isolation_problem,
    )  # fmt: skip


def stop_server(call: Call) -> None:
    """End the server after this reply; runs go on."""
    os.kill(os.getpid(), signal.SIGTERM)


def create_ticket(call: Call) -> Ticket:
    """A key for one link in a browser."""
    secret, expires_at = call.parts.keys.make_ticket(call.authorization)
    return Ticket(secret, int(expires_at * 1_000_000))


def create_token(call: Call) -> Token:
    """A scoped token for a user or a service."""
    spec: TokenSpec = call.body
    if spec.role not in ROLES or spec.role == "run":
        raise UserErrorException(f"A role is reader, contributor or owner, not {spec.role[:40]!r}.")
    if spec.kind not in (PrincipalKind.USER, PrincipalKind.SERVICE):
        raise UserErrorException(f"A token is for a user or a service, not {spec.kind[:40]!r}.")
    if spec.lifetime_s is not None and not 0 < spec.lifetime_s <= 10 * 366 * 86_400:
        raise UserErrorException(f"A token lives from 1 second to 10 years, not {spec.lifetime_s} s.")
    expires_at = None if spec.lifetime_s is None else call.now + spec.lifetime_s * 1_000_000
    principal = Principal(spec.kind, check_asset_name(spec.name), spec.role, call.workspace)
    secret = identity.new_secret("ryt")
    call.parts.database.write(
        lambda connection: identity.add_token(connection, secret, principal, call.user, call.now, expires_at)
    )
    return Token(secret, spec.name, spec.role, spec.kind, expires_at)
