"""Tokens and the principals they stand for; only digests of secrets are kept."""

import hashlib
import secrets
from typing import Optional

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from runyard.db.tables import tokens
from runyard.protocol.identity import Principal

_BY_SECRET = select(tokens).where(tokens.c.secret_digest == bindparam("digest"))
_EXPIRE = (
    update(tokens)
    .where(
        tokens.c.run_id == bindparam("of_run"),
        (tokens.c.expires_at.is_(None)) | (tokens.c.expires_at > bindparam("at")),
    )
    .values(expires_at=bindparam("at"))
)
_ADD = insert(tokens)

#: Random bytes of a secret.
SECRET_BYTES = 32


def new_secret(prefix: str) -> str:
    """A fresh secret; its prefix tells a reader of logs what kind of key leaked."""
    return f"{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"


def add_token(
    connection: Connection,
    secret: str,
    principal: Principal,
    created_by: str,
    now: int,
    expires_at: Optional[int] = None,
) -> None:
    """Make ``secret`` stand for ``principal`` from now on."""
    values = {
        "secret_digest": _digest(secret), "kind": principal.kind, "name": principal.name, "role": principal.role,
        "workspace": principal.workspace or "", "run_id": principal.run_id, "expires_at": expires_at,
        "created_by": created_by, "created_at": now,
    }  # fmt: skip
    connection.execute(_ADD, values)


def find_principal(connection: Connection, secret: str, now: int) -> Optional[Principal]:
    """Whom the secret stands for; None if it is unknown or has expired.

    The look-up is by the secret's digest, so its time tells nothing about secrets that exist.
    """
    row = connection.execute(_BY_SECRET, {"digest": _digest(secret)}).first()
    if row is None or (row.expires_at is not None and row.expires_at <= now):
        return None
    return Principal(row.kind, row.name, row.role, row.workspace or None, row.run_id)


def expire_run_tokens(connection: Connection, run_id: str, expires_at: int) -> None:
    """End a run's tokens at that time, unless they end sooner."""
    connection.execute(_EXPIRE, {"of_run": run_id, "at": expires_at})


def forget_expired(connection: Connection, now: int) -> None:
    """Remove tokens that have expired."""
    connection.execute(delete(tokens).where(tokens.c.expires_at <= now))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
