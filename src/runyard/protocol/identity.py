"""Principals, and the tokens and tickets that stand for them."""

from typing import Optional

from runyard.protocol.record import record


class PrincipalKind:
    """Who acts."""

    USER = "user"
    RUN = "run"
    SERVICE = "service"


@record
class Principal:
    """Who a request comes from, as its token says."""

    kind: str
    name: str
    role: str
    #: None: every workspace (a user of this server).
    workspace: Optional[str] = None
    run_id: Optional[str] = None


@record
class TokenSpec:
    """A token as asked: for a user or a service, in one workspace."""

    name: str
    role: str
    kind: str = PrincipalKind.SERVICE
    lifetime_s: Optional[int] = None


@record
class Token:
    """A new token; its secret is shown this once."""

    secret: str
    name: str
    role: str
    kind: str
    expires_at: Optional[int] = None


@record
class Ticket:
    """A link's single-use key for the browser."""

    ticket: str
    expires_at: int
