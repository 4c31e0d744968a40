"""A server's application in this process, without a socket: its parts are real, only its control loop rests."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn

from runyard.db import experiments, identity, runs, workspaces
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.routes import BY_NAME
from runyard.protocol.runs import RunSpec
from runyard.protocol.workspaces import WorkspaceSpec
from runyard.server.app import Parts, make_parts
from runyard.server.dispatch import Application as Server
from runyard.server.settings import Settings


@dataclass(frozen=True)
class Reply:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a reply that is one; a reply that is none fails the test."""
        found: dict[str, Any] = self.json["error"]
        return found


class Application:
    """The application of one home; ``close`` it at the end."""

    def __init__(self, home: Path, **settings: Any) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.parts: Parts = make_parts(Settings(home=home, **settings), "http://127.0.0.1:9")
        self._app = Server(self.parts)
        self._loop = asyncio.new_event_loop()
        self.owner = self.add_token(Principal(PrincipalKind.USER, "ann", "owner"))

    def close(self) -> None:
        self.parts.builds.close()
        self.parts.engines.close()
        self.parts.database.close()
        self._loop.close()

    def add_token(self, principal: Principal, lifetime_s: int | None = None) -> str:
        """A token that stands for ``principal``; a negative lifetime gives one that has expired."""
        secret, now = identity.new_secret("ryt"), now_us()
        ends_at = None if lifetime_s is None else now + lifetime_s * 1_000_000
        self.parts.database.write(lambda c: identity.add_token(c, secret, principal, "test", now, ends_at))
        return secret

    def add_workspace(self, name: str) -> None:
        self.parts.database.write(lambda c: workspaces.create_workspace(c, WorkspaceSpec(name), "ann", now_us()))

    def add_run(self, workspace: str, run_id: str, **spec: Any) -> None:
        """A run as accepted: in Starting, its script never looked at."""

        def write(connection: Any) -> None:
            experiments.create_experiment(connection, workspace, "trial", "ann", now_us())
            asked = RunSpec(run_id, "trial", script="train.py", **spec)
            runs.create_run(connection, asked, workspace, "ann", now_us())

        self.parts.database.write(write)

    def ask(self, request: str, body: Any = None, token: str | None = None, query: str = "", **path: str) -> Reply:
        """Make the request of that name; ``path`` fills the address as it is, so it comes quoted."""
        route = BY_NAME[request]
        target = fill(route.path, path)
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        kind = "application/octet-stream" if route.raw else "application/json"
        headers = {"content-type": kind, "authorization": "Bearer " + (token or self.owner)}
        return self.send(route.method, target + ("?" + query if query else ""), headers, data)

    def send(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Reply:
        """One request as uvicorn would hand it over: ``target`` is percent-decoded once, and never tidied."""
        return self._loop.run_until_complete(self._send(method, target, {"host": "127.0.0.1:1", **headers}, body))

    async def _send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        raw_path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        events = iter([{"type": "http.request", "body": body, "more_body": False}])
        answered: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if event := next(events, None):
                return event
            # The client stays until it has its reply.
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            answered.append(dict(message))

        await self._app(scope, receive, send)
        head = answered[0]
        found = {name.decode().lower(): value.decode("latin-1") for name, value in head["headers"]}
        return Reply(head["status"], found, b"".join(one.get("body", b"") for one in answered[1:]))


def fill(path: str, values: dict[str, str]) -> str:
    """The path of a route with its parameters filled in, as they are."""
    for name, value in values.items():
        path = path.replace("{" + name + ":path}", value).replace("{" + name + "}", value)
    return path


def now_us() -> int:
    return time.time_ns() // 1000


@contextmanager
def listening(home: Path) -> Iterator[tuple[Application, str]]:
    """A server whose control loop rests, and its address."""
    application = Application(home)
    server = uvicorn.Server(uvicorn.Config(application._app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield application, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        application.close()
