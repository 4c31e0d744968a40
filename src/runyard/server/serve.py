"""From the command line of a server to its last request: who may listen where, the lock, the socket, the owner."""

import argparse
import asyncio
import fcntl
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import uvicorn

from runyard import __version__
from runyard.db import identity
from runyard.environments.confinement import VARIABLE
from runyard.environments.job_users import open_home
from runyard.errors import RunyardError, ServiceException, UserErrorException
from runyard.files.layout import write_atomically
from runyard.files.processes import identity as process_identity
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.plan import Isolation
from runyard.server.app import Parts, make_parts
from runyard.server.connection import Connection
from runyard.server.dispatch import Application
from runyard.server.settings import Settings, read_settings
from runyard.storage.chosen import SERVICE_VARIABLES

#: How long requests may finish after TERM, seconds.
GRACE_S = 3
#: How often the date of replies is brought up to date, seconds.
TICK_S = 1.0
#: Objects made before the youngest are looked through, and how often the older ones are: requests leave few cycles.
GARBAGE_THRESHOLDS = (20_000, 20, 50)


def main() -> int:
    """Serve; returns the exit code."""
    arguments = _parse()
    # A datastore is reached by its own credentials or by none: never by those of whoever started the server, which are
    # the artifact store's.
    found = {name: value for name, value in os.environ.items() if name.startswith(SERVICE_VARIABLES)}
    for name in found:
        del os.environ[name]
    try:
        settings = replace(
            read_settings(Path(arguments.home), arguments.host, arguments.port),
            certificate=os.path.abspath(arguments.certificate) if arguments.certificate else "",
            certificate_key=os.path.abspath(arguments.key) if arguments.key else "",
        )
        _check_binding(settings, arguments)
        _check_isolation(settings)
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(settings.home / "server.lock", "w") as lock:
            _take(lock, settings.home)
            _serve(settings, arguments, found)
    except RunyardError as error:
        sys.stderr.write(f"runyard: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    does = "Serve one home folder, until TERM; runs outlive the server."
    parser = argparse.ArgumentParser(prog="python -m runyard.server", description=does)
    parser.add_argument("--home", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate", help="PEM file; with --key the server speaks TLS")
    parser.add_argument("--key")
    parser.add_argument("--insecure", action="store_true", help="serve beyond this machine without TLS")
    return parser.parse_args()


def _check_binding(settings: Settings, arguments: argparse.Namespace) -> None:
    if not settings.is_loopback and not arguments.certificate and not arguments.insecure:
        raise UserErrorException(
            f"Serving on {settings.host} without TLS would show tokens to the network; "
            "give --certificate and --key, or --insecure behind a proxy that has them."
        )


def _check_isolation(settings: Settings) -> None:
    """Who reaches a server may submit jobs to it: beyond this machine that they are trusted is somebody's decision."""
    if settings.isolation == Isolation.USER:
        # Environments and the kit are read by users who are not this one.
        os.umask(0o022)
    elif not settings.is_loopback and settings.isolation_problem:
        raise UserErrorException(
            f"Serving on {settings.host}, whoever may submit a job could do all that this server's user may: "
            f"{settings.isolation_problem.partition(': ')[2].rstrip('.')}; install bubblewrap, or set "
            f"{VARIABLE}=trusted if that is meant."
        )


def _take(lock: Any, home: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ServiceException(f"Another server runs for {home}; see: runyard status") from None


def _serve(settings: Settings, arguments: argparse.Namespace, variables: Dict[str, str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    url = _local_url(settings, host, port, bool(arguments.certificate))
    parts = make_parts(settings, url, variables)
    logging.getLogger("runyard").info("isolation of jobs: %s. %s", settings.isolation, settings.isolation_problem)
    _ensure_owner(parts)
    if settings.isolation == Isolation.USER:
        open_home(str(settings.home))
    config = uvicorn.Config(
        Application(parts),
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
        http=Connection,
        loop="auto",
        ws="none",
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.key,
        server_header=False,
        proxy_headers=False,
    )
    server = _Server(config, parts)
    record = {
        **process_identity(os.getpid()),
        "url": url,
        "public_url": parts.url,
        "version": __version__,
        "home": str(settings.home),
        "port": port,
    }
    # Requests are taken from here on: the socket listens, and uvicorn begins to accept in a moment.
    write_atomically(settings.home / "server.json", json.dumps(record).encode(), mode=0o600)
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.enable()
    server.run(sockets=[listener])


def _local_url(settings: Settings, host: str, port: int, is_tls: bool) -> str:
    """Where this machine's clients and runners reach the server: past a proxy; by its certificate's name with TLS."""
    if is_tls and settings.public_url:
        return settings.public_url
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, settings.host if is_tls else host)
    return "{}://{}:{}".format("https" if is_tls else "http", f"[{name}]" if ":" in name else name, port)


class _Server(uvicorn.Server):
    """Lets requests that wait end at once when the server is told to stop."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        super().__init__(config)
        self._parts = parts
        #: Ends the sleep of the main loop; nothing before there is one.
        self._wake: Callable[[], Any] = lambda: None

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._parts.stopping = True
        self._parts.events.notify()
        super().handle_exit(sig if sig != signal.SIGHUP else signal.SIGTERM, frame)
        self._wake()

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it is told to stop; this one is woken then."""
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        self._wake = partial(loop.call_soon_threadsafe, told.cancel)
        while not await self.on_tick(0):
            await asyncio.wait({told}, timeout=TICK_S)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take the record away here: after run(), uvicorn ends the process by the signal that it was told to stop by.

        By a record without its process, clients know a server that was killed.
        """
        await super().shutdown(sockets)
        (self._parts.settings.home / "server.json").unlink(missing_ok=True)


def _listen(settings: Settings) -> socket.socket:
    """The port of the last time if it is free, so that addresses stay what they were; else any.

    The protocol is named: uvicorn sets TCP_NODELAY only on sockets that say they are TCP, and without it a request
    takes 44 ms.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in (settings.port,) if settings.port else (_last_port(settings.home), 0):
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if port == 0 or settings.port:
                raise ServiceException(f"Cannot serve on {settings.host}:{port}: {error.strerror}.") from None
            continue
        write_atomically(settings.home / "port", str(listener.getsockname()[1]).encode())
        return listener
    raise ServiceException(f"No port is free on {settings.host}.")


def _last_port(home: Path) -> int:
    try:
        return int((home / "port").read_text())
    except (OSError, ValueError):
        return 0


def _ensure_owner(parts: Parts) -> None:
    """The owner's token, made at the first start, in a file that only its owner reads."""
    path = parts.settings.home / "token"
    secret: Optional[str] = path.read_text().strip() if path.exists() else None
    if not secret:
        secret = "ryu_" + secrets.token_urlsafe(32)
        write_atomically(path, secret.encode() + b"\n", mode=0o600)
    now = parts.started_at
    with parts.database.read() as connection:
        known = identity.find_principal(connection, secret, now)
    if known is None:
        owner = Principal(PrincipalKind.USER, _user_name(), "owner")
        parts.database.write(lambda connection: identity.add_token(connection, secret, owner, "server", now))


def _user_name() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "owner"
