"""The door of replicas on other machines: who knocks proves which run it is, and is a replica from then on.

A front opens it. Anybody may knock who reaches the port: until the proof one has few seconds, few bytes and no effect.
"""

import asyncio
import hmac
import json
import os
import socket
import ssl
import time
from typing import Any, Callable, Dict, Optional, Set

from runyard.protocol.services import Revision, replica_proof, replica_secret
from runyard.scoring import frames
from runyard.serving.replicas import Pool, Replica

#: Time and bytes for a proof, and how many may be at it at once.
PROOF_S, PROOF_MAX, UNPROVEN_MAX = 5.0, 4_096, 256
#: Between two lines in the log about strangers, seconds.
STRANGERS_S = 60.0


class Door:
    """One revision's."""

    def __init__(self, revision: Revision, pool: Pool, tell: Callable[[Dict[str, Any]], None]) -> None:
        self._revision, self.pool, self._tell = revision, pool, tell
        self._key = ""
        self._server: Any = None
        self._is_open = False
        self._next_number = 1
        self._refused_at = -STRANGERS_S
        #: Of those who have knocked and not proven anything.
        self.unproven: Set[Newcomer] = set()
        #: Who is in, by the run that it is.
        self._inside: Dict[str, Newcomer] = {}

    def set_key(self, token_key: str) -> None:
        """What the secrets of runs are made from."""
        self._key = token_key

    async def open(self, listener: socket.socket, tls: Optional[ssl.SSLContext]) -> None:
        """Let in from now on. Once is enough."""
        if not self._is_open:
            self._is_open = True
            loop = asyncio.get_running_loop()
            handshake_s = PROOF_S if tls is not None else None
            self._server = await loop.create_server(
                lambda: Newcomer(self), sock=listener.dup(), ssl=tls, ssl_handshake_timeout=handshake_s
            )

    def let_in(self, newcomer: "Newcomer", said: Dict[str, Any], nonce: str) -> Optional[Replica]:
        """A replica, where the proof is right; compared in constant time."""
        run_id = str(said.get("run"))[:400]
        secret = replica_secret(self._key, self._revision.service, self._revision.number, run_id)
        if not self._key or not hmac.compare_digest(
            replica_proof(secret, nonce).encode(), str(said.get("proof")).encode("utf-8", "replace")
        ):
            return None
        before = self._inside.get(run_id)
        if before is not None:
            before.drop()  # Its machine was out of reach, and we have not noticed yet.
        number, self._next_number = self._next_number, self._next_number + 1
        self._inside[run_id] = newcomer
        newcomer.run_id = run_id
        self._tell({"event": "replica_joined", "replica": number, "run": run_id, "place": newcomer.place})
        return self.pool.add(number, is_elsewhere=True)

    def left(self, newcomer: "Newcomer") -> None:
        """Its connection has ended."""
        self.unproven.discard(newcomer)
        if self._inside.get(newcomer.run_id) is newcomer:
            del self._inside[newcomer.run_id]

    def refuse(self, why: str) -> None:
        """Somebody was no replica of ours: said from time to time."""
        now = time.monotonic()
        if now - self._refused_at >= STRANGERS_S:
            self._refused_at = now
            self._tell({"event": "stranger", "why": why})


class Newcomer(asyncio.Protocol):
    """Who has knocked: first a stranger, then a replica."""

    def __init__(self, door: Door) -> None:
        self.run_id = ""
        #: The address that it comes from.
        self.place = ""
        self._door = door
        self._nonce = os.urandom(32).hex()
        self._transport: Any = None
        self._replica: Optional[Replica] = None
        self._said = b""
        self._timer: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.place = str((transport.get_extra_info("peername") or ("",))[0])
        if len(self._door.unproven) >= UNPROVEN_MAX:
            transport.abort()
            return
        self._door.unproven.add(self)
        self._timer = asyncio.get_running_loop().call_later(PROOF_S, self._refuse, "it said nothing")
        transport.writelines(frames.encode({"nonce": self._nonce}))

    def data_received(self, data: bytes) -> None:
        if self._replica is not None:
            self._replica.data_received(data)
            return
        self._said += data
        if len(self._said) > PROOF_MAX:
            self._refuse("it said too much")
            return
        try:
            self._read_proof()
        except (ValueError, AttributeError, RecursionError):
            self._refuse("it does not speak as a replica does")

    def _read_proof(self) -> None:
        whole = frames.SIZES_BYTES
        if len(self._said) < whole:
            return
        header_size, body_size = frames.checked_sizes(self._said)
        whole += header_size
        if body_size or whole > PROOF_MAX or len(self._said) > whole:
            raise ValueError("no proof looks so")
        if len(self._said) == whole:
            self._prove(json.loads(self._said[frames.SIZES_BYTES :].decode("utf-8")))

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._stop_timer()
        self._door.left(self)
        if self._replica is not None:
            self._replica.connection_lost(error)

    def drop(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _prove(self, said: Dict[str, Any]) -> None:
        replica = self._door.let_in(self, said, self._nonce)
        if replica is None:
            self._refuse("its proof is wrong")
            return
        self._stop_timer()
        self._door.unproven.discard(self)
        self._said, self._replica = b"", replica
        self._transport.writelines(frames.encode({"welcome": True}))
        replica.connection_made(self._transport)

    def _refuse(self, why: str) -> None:
        self._door.refuse(why)
        self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
