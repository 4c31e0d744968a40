"""Who asks, and may they: tokens to principals, roles to permissions, and the checks that keep browsers honest."""

import threading
import time
from typing import Dict, Mapping, Optional, Set, Tuple
from urllib.parse import urlsplit

from runyard.db import identity, workspaces
from runyard.db.engine import Database
from runyard.errors import AuthenticationException, PermissionDeniedError
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.routes import ROLES, Permission, Route
from runyard.server.settings import LOOPBACK, Settings

#: A browser's cookie, and how long it and a link's ticket live, seconds.
COOKIE, COOKIE_LIFETIME_S, TICKET_LIFETIME_S = "runyard_session", 12 * 3600, 600
#: How long a token that was looked up is taken without looking again, seconds: as late as that does a revoked one end.
KNOWN_S = 2.0
#: Most sessions and tickets at once.
SESSIONS_MAX = 10_000


class Keys:
    """Principals by their tokens, and the browser's sessions, which live as long as this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: Dict[str, Tuple[Principal, float]] = {}
        self._workspaces: Set[str] = set()
        #: The token for which a ticket or a session stands, and when it ends.
        self._tickets: Dict[str, Tuple[str, float]] = {}
        self._sessions: Dict[str, Tuple[str, float]] = {}
        self._guard = threading.Lock()

    def find(self, authorization: Optional[str], cookie: Optional[str], method: str) -> Principal:
        """The principal of a request; AuthenticationException where it names none that is known."""
        if authorization is not None:
            scheme, _, secret = authorization.partition(" ")
            if scheme.lower() == "bearer" and secret:
                found = self._of_token(secret.strip())
                if found is not None:
                    return found
            raise AuthenticationException("The token is not known or has expired.")
        token, ends_at = self._sessions.get(cookie or "", ("", 0.0))
        # The token is looked up each time: no session outlives it.
        found = self._of_token(token) if ends_at > time.time() and method == "GET" else None
        if found is not None:
            return found
        raise AuthenticationException(
            "A token is needed: 'Authorization: Bearer ...'.", hint="In a browser, follow the link of: runyard open"
        )

    def find_known(self, authorization: Optional[str]) -> Optional[Principal]:
        """The principal of a token that was looked up moments ago; costs no look at the database."""
        scheme, _, secret = (authorization or "").partition(" ")
        known, until = self._known.get(secret.strip() if scheme.lower() == "bearer" else "", (None, 0.0))
        return known if time.monotonic() < until else None

    def is_workspace(self, name: str) -> bool:
        """Was that workspace seen before? One that is there stays there."""
        return name in self._workspaces

    def check_workspace(self, name: str) -> None:
        """NotFoundError where there is no such workspace."""
        with self._database.read() as connection:
            workspaces.get_workspace(connection, name)
        self._workspaces.add(name)

    def _of_token(self, secret: str) -> Optional[Principal]:
        with self._database.read() as connection:
            found = identity.find_principal(connection, secret, time.time_ns() // 1000)
        if found is not None:
            if len(self._known) >= SESSIONS_MAX:
                self._known.clear()
            self._known[secret] = (found, time.monotonic() + KNOWN_S)
        return found

    def make_ticket(self, authorization: str) -> Tuple[str, float]:
        """A key for a link, good for one use and some minutes; it signs in as that token does."""
        return self._keep(self._tickets, authorization.partition(" ")[2].strip(), TICKET_LIFETIME_S)

    def redeem(self, ticket: str) -> Optional[str]:
        """A session for a ticket's token; None for a ticket that is unknown, used or old."""
        with self._guard:
            token, ends_at = self._tickets.pop(ticket, ("", 0.0))
        if ends_at < time.time():
            return None
        return self._keep(self._sessions, token, COOKIE_LIFETIME_S)[0]

    def _keep(self, kept: Dict[str, Tuple[str, float]], token: str, lifetime_s: float) -> Tuple[str, float]:
        now = time.time()
        secret = identity.new_secret("ryk")
        with self._guard:
            for old in [key for key, (_, ends_at) in kept.items() if ends_at < now]:
                del kept[old]
            while len(kept) >= SESSIONS_MAX:
                del kept[next(iter(kept))]
            kept[secret] = (token, now + lifetime_s)
        return secret, now + lifetime_s


def check_permission(route: Route, principal: Principal, path: Mapping[str, str]) -> None:
    """PermissionDeniedError unless the principal's role allows the route, in that workspace and for that run."""
    if route.permission is None:
        return
    if route.permission not in ROLES.get(principal.role, frozenset()):
        raise PermissionDeniedError(
            "{} has the role {!r}, which may not {}.".format(
                principal.name, principal.role, route.name.replace("_", " ")
            )
        )
    workspace = path.get("workspace")
    # What is read outside any workspace shows each principal its own share only.
    is_shared = workspace is None and route.permission == Permission.READ
    if principal.workspace is not None and workspace != principal.workspace and not is_shared:
        raise PermissionDeniedError(f"{principal.name} belongs to workspace {principal.workspace!r} only.")
    if principal.kind == PrincipalKind.RUN and path.get("run_id", principal.run_id) != principal.run_id:
        raise PermissionDeniedError("A run's token reaches its own run only, not {!r}.".format(path["run_id"]))


def check_origin(headers: Mapping[str, str], settings: Settings) -> None:
    """Refuse what a browser sends on behalf of another site, and names that are not this server's."""
    host = _host_name(headers.get("host", ""))
    known = set(LOOPBACK) | set(settings.allowed_hosts) | {settings.host}
    if settings.public_url:
        known.add(_host_name(urlsplit(settings.public_url).netloc))
    if host not in known and settings.host not in ("0.0.0.0", "::"):
        raise PermissionDeniedError(
            f"This server does not go by the name {host[:100]!r}.",
            hint=f"If a proxy passes it on, set RUNYARD_ALLOWED_HOSTS={host[:100]}.",
        )
    origin = headers.get("origin")
    if origin is not None and _host_name(urlsplit(origin).netloc) not in known | {host}:
        raise PermissionDeniedError(
            f"Requests from the site {origin[:100]!r} are not taken.", hint="See RUNYARD_ALLOWED_HOSTS."
        )
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not is_link:
            raise PermissionDeniedError("A browser sent this for another site; it is not taken.")


def _host_name(netloc: str) -> str:
    """The name without port, user or brackets, in lower case."""
    name = netloc.rpartition("@")[2].strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
