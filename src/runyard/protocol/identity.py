"""Principals, tokens, and the small bodies of requests that belong to no noun of their own."""

from typing import Optional, Tuple

from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.record import record
from runyard.protocol.runs import Artifact


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


@record
class Ping:
    """The server answers; which versions it speaks."""

    name: str
    version: str
    api: int


@record
class ServerInfo:
    """The server as its owner sees it."""

    version: str
    home: str
    pid: int
    url: str
    started_at: int
    active_runs: int
    warnings: Tuple[str, ...] = ()


@record
class Explanation:
    """What a run waits for, in one sentence, and what would unblock it in another."""

    run_id: str
    status: str
    waits_for: str
    unblocked_by: str = ""
    since: Optional[int] = None


@record
class Offset:
    """How many bytes the server now holds."""

    offset: int


@record
class Count:
    """How many items were taken."""

    count: int


@record
class Upload:
    """An upload that was begun."""

    upload_id: str


@record
class DigestList:
    """Digests of blobs."""

    digests: Tuple[str, ...]


@record
class ArtifactList:
    """Artifacts whose blobs are already in the store."""

    artifacts: Tuple[Artifact, ...]


@record
class EnvironmentBody:
    """An environment to register."""

    spec: EnvironmentSpec
