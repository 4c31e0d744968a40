"""The one place where parts are chosen and put together, and the dispatcher that the route table becomes."""

import asyncio
import json
import logging
import os
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Iterator, Optional, Union

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from runyard import errors
from runyard.compute.local import LocalCompute
from runyard.control.builds import Builds
from runyard.control.loop import Loop
from runyard.db.engine import Database
from runyard.environments.kit import Kit, make_kit
from runyard.files.blobs import BlobStore
from runyard.protocol.plan import NodeFacts
from runyard.protocol.routes import TABLE, Route
from runyard.protocol.wire import from_wire, to_wire
from runyard.server import pages
from runyard.server.auth import COOKIE, Keys, check_origin, check_permission
from runyard.server.call import Call, Content, Upload
from runyard.server.events import Events
from runyard.server.handlers import assets, compute, records, runs, system
from runyard.server.names import check_address
from runyard.server.settings import Settings

#: Largest JSON body, raw body kept in memory, and streamed body, bytes.
JSON_MAX, RAW_MAX, STREAM_MAX = 32 << 20, 64 << 20, 1 << 40
#: Pieces in which large bodies are written and replies read, bytes.
PIECE_BYTES = 1 << 20
#: Routes whose body may be larger than memory should hold.
STREAMED = ("write_datastore_file",)

_log = logging.getLogger("runyard.server")

Handler = Callable[[Call], Any]

_STATUS = (
    (errors.NotFoundError, 404),
    (errors.ModelNotFoundException, 404),
    (errors.ConflictError, 409),
    (errors.PermissionDeniedError, 403),
    (errors.AuthenticationException, 401),
    (errors.StorageFullError, 507),
    (errors.IntegrityError, 422),
    (errors.ServiceException, 503),
    (errors.RunyardError, 400),
)


@dataclass
class Parts:
    """The parts of one server."""

    settings: Settings
    database: Database
    store: BlobStore
    compute: LocalCompute
    loop: Loop
    builds: Builds
    events: Events
    keys: Keys
    started_at: int
    url: str = ""
    stopping: bool = False

    @property
    def logs_folder(self) -> Path:
        """Where logs lie while they grow."""
        return self.settings.home / "logs"

    @property
    def datastores_folder(self) -> Path:
        """Where the files of datastores lie."""
        return self.settings.home / "datastores"

    def is_stopping(self) -> bool:
        """Should waiting requests end now?"""
        return self.stopping

    def close(self) -> None:
        """End everything but the runs."""
        self.stopping = True
        self.events.notify()
        self.loop.stop()
        self.builds.close()
        self.compute.close()
        self.database.close()


def make_parts(settings: Settings, url: str) -> Parts:
    """Open the home's parts and start its loop."""
    home = settings.home
    cache = home / "cache"
    for folder in (cache, home / "logs", home / "datastores", home / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    database = Database(home / "runyard.db")
    events = Events()
    facts = NodeFacts(
        cache_folder=str(cache),
        store_folder=str(home / "store"),
        datastores_folder=str(home / "datastores"),
        server_file=str(home / "server.json"),
        server_url=url,
        node="local",
    )
    local = LocalCompute(home / "runs", facts)
    kits: Dict[str, Kit] = {}

    def kit() -> str:
        if "kit" not in kits:
            kits["kit"] = make_kit(str(cache / "kits"))
        return kits["kit"].version_digest

    builds = Builds(database, home / "builds", cache, lambda: loop.ring())
    loop = Loop(
        database, local, builds, kit, home / "logs", settings.local_slots, settings.allow_private_urls, events.notify
    )
    store = BlobStore(home / "store")
    keys = Keys(database)
    return Parts(settings, database, store, local, loop, builds, events, keys, time.time_ns() // 1000, url)


def make_app(parts: Parts) -> Starlette:
    """The ASGI application."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        parts.events.attach(asyncio.get_running_loop())
        parts.loop.start()
        asyncio.get_running_loop().run_in_executor(None, parts.compute.prepare)
        yield
        await run_in_threadpool(parts.close)

    handlers = _handlers()
    routes = [
        StarletteRoute(route.path, _endpoint(parts, route, handlers[route.name]), methods=[route.method])
        for route in TABLE
    ]
    routes += pages.make_routes(parts, _guarded)
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: _no_route, 405: _no_route})
    app.router.redirect_slashes = False
    return app


async def _no_route(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _error(errors.NotFoundError("This server has no such address, or not for that method."), status)


def _handlers() -> Dict[str, Handler]:
    found: Dict[str, Handler] = {}
    for module in (system, runs, records, assets, compute):
        for route in TABLE:
            handler = getattr(module, route.name, None)
            if handler is not None:
                found[route.name] = handler
    missing = [route.name for route in TABLE if route.name not in found]
    if missing:
        raise NotImplementedError("routes without a handler: " + ", ".join(missing))
    return found


def _endpoint(parts: Parts, route: Route, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await _guarded(parts, request, lambda: _answer(parts, route, handler, request))

    return endpoint


async def _guarded(parts: Parts, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    """The answer, or the error as every client understands it; an unforeseen one is logged and not shown."""
    try:
        check_origin(request.headers, parts.settings)
        response = await answer()
    except errors.RunyardError as error:
        response = _error(error)
    except ClientDisconnect:
        response = Response(status_code=499)
    except Exception:  # noqa: BLE001 - logged here, and shown to nobody
        _log.exception("%s %s failed", request.method, request.url.path)
        response = _error(errors.ServiceException("The server failed at this request; its log says why."), 500)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


async def _answer(parts: Parts, route: Route, handler: Handler, request: Request) -> Response:
    principal: Any = None
    if route.permission is not None:
        authorization = request.headers.get("authorization")
        known = parts.keys.find_known(authorization)
        principal = known or await run_in_threadpool(
            parts.keys.find, authorization, request.cookies.get(COOKIE), request.method
        )
        check_address(request.path_params)
        check_permission(route, principal, request.path_params)
        workspace = request.path_params.get("workspace")
        if workspace is not None and not parts.keys.is_workspace(workspace):
            await run_in_threadpool(parts.keys.check_workspace, workspace)
    body = await _read_body(parts, route, request)
    call = Call(route, principal, request.path_params, request.query_params, body, parts)
    try:
        if asyncio.iscoroutinefunction(handler):
            value = await handler(call)
        else:
            value = await run_in_threadpool(handler, call)
    finally:
        if isinstance(body, Upload):
            body.path.unlink(missing_ok=True)
    return _reply(route, value)


async def _read_body(parts: Parts, route: Route, request: Request) -> Any:
    if route.method in ("GET", "DELETE"):
        return None
    if route.name in STREAMED:
        return await _stream_body(parts, request)
    limit = RAW_MAX if route.raw else JSON_MAX
    length = request.headers.get("content-length", "0")
    pieces, size = [], int(length) if length.isdigit() else 0
    if size <= limit:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                break
            pieces.append(piece)
    if size > limit:
        raise errors.UserErrorException(f"The body is larger than {limit} bytes.")
    data = b"".join(pieces)
    if route.raw:
        return data
    if route.request is None:
        return None
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise errors.UserErrorException(f"The body of {route.name} is application/json.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise errors.UserErrorException(f"The body is not JSON: {error}.") from None
    is_user = route.permission not in ("run.report",)
    return from_wire(route.request, found, strict=is_user)


async def _stream_body(parts: Parts, request: Request) -> Upload:
    """A large body in a temporary file; StorageFullError where it does not fit."""
    handle, name = tempfile.mkstemp(dir=str(parts.settings.home / "tmp"))
    size, pending = 0, bytearray()
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in request.stream():
                pending += piece
                size += len(piece)
                if len(pending) >= PIECE_BYTES:
                    await run_in_threadpool(file.write, bytes(pending))
                    pending.clear()
            await run_in_threadpool(file.write, bytes(pending))
    except OSError as error:
        os.unlink(name)
        raise errors.StorageFullError(f"The server could not keep the file: {error.strerror}.") from None
    except BaseException:
        os.unlink(name)
        raise
    return Upload(Path(name), size)


def _reply(route: Route, value: Any) -> Response:
    if isinstance(value, Content):
        return _raw_reply(value)
    if route.response is None:
        return Response(status_code=204)
    return Response(json.dumps(to_wire(value), separators=(",", ":")), media_type="application/json")


def _raw_reply(content: Content) -> Response:
    headers = dict(content.headers or {})
    headers["Content-Disposition"] = "attachment"
    headers["Content-Security-Policy"] = "sandbox"
    if content.file is None:
        return Response(content.data, headers=headers, media_type=content.media_type)
    headers["Content-Length"] = str(content.size_bytes)
    return StreamingResponse(_pieces(content.file), headers=headers, media_type=content.media_type)


def _pieces(file: Any) -> Iterator[bytes]:
    with file:
        while True:
            piece = file.read(PIECE_BYTES)
            if not piece:
                return
            yield piece


def _error(error: errors.RunyardError, status: Optional[int] = None) -> Response:
    kind = type(error)
    if status is None:
        status = next(code for one, code in _STATUS if issubclass(kind, one))
    body: Dict[str, Union[str, None]] = {"type": kind.__name__, "message": error.message, "hint": error.hint}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(json.dumps({"error": body}), status, headers, media_type="application/json")
