"""The route table as an ASGI application: who asks, may they, what they send, the handler, the reply.

A table and a regular expression do what a web framework's router and middleware would, in a third of their time;
Starlette's requests and responses do the rest.
"""

import asyncio
import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from runyard import errors
from runyard.protocol.routes import TABLE, Route
from runyard.protocol.wire import from_wire, to_wire
from runyard.server import pages
from runyard.server.app import Parts
from runyard.server.auth import COOKIE, check_origin, check_permission
from runyard.server.call import Call, Content, Upload
from runyard.server.handlers import (
    compute,
    datasets,
    datastores,
    environments,
    experiments,
    meetings,
    models,
    nodes,
    outputs,
    records,
    runs,
    services,
    system,
    workspaces,
)
from runyard.server.names import check_address
from runyard.server.storage_work import ARTIFACTS, in_store_thread, pieces_of
from runyard.server.threads import in_thread

#: Largest JSON body and raw body kept in memory, bytes; a streamed body may be as large as the disk has space.
JSON_MAX, RAW_MAX = 32 << 20, 64 << 20
#: Pieces in which large bodies are written and replies read, bytes.
PIECE_BYTES = 1 << 20
#: Routes whose handlers read or write contents, which may wait for a service.
CONTENTS = frozenset(
    (
        "put_blobs", "begin_upload", "sign_parts", "append_upload", "finish_upload", "read_blob", "get_blob_address",
        "read_snapshot_files", "read_snapshot_file", "read_artifact", "read_model_file", "register_model",
        "deploy_service", "change_service",
        "find_environment_pack", "read_environment_pack",
    )
)  # fmt: skip
#: Routes whose body may be larger than memory should hold.
STREAMED = ("write_datastore_file", "write_output_file", "write_environment_file")

#: Where the handlers of the routes are, a noun a module.
HANDLERS = (
    system, workspaces, experiments, runs, records, meetings, nodes, outputs, datastores, datasets, environments,
    models, services, compute,
)  # fmt: skip

_log = logging.getLogger("runyard.server")

Handler = Callable[[Call], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]

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


class Application:
    """The ASGI application of one server; it starts its parts, and ends them after the last request."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        handlers = _handlers()
        rows = [(route.method, route.path, _endpoint(parts, route, handlers[route.name])) for route in TABLE]
        rows += [("GET", path, endpoint) for path, endpoint in pages.make_pages(parts, guarded)]
        self._addresses: Dict[str, _Addresses] = {
            method: _Addresses((path, endpoint) for one, path, endpoint in rows if one == method)
            for method in {method for method, _, _ in rows}
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            response = await self._respond(scope, receive)
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        here = self._addresses.get(method)
        endpoint, scope["path_params"] = here.find(scope["path"]) if here is not None else (None, {})
        if endpoint is not None:
            return await endpoint(Request(scope, receive))
        is_known = any(one.find(scope["path"])[0] is not None for one in self._addresses.values())
        error = errors.NotFoundError("This server has no such address, or not for that method.")
        return _error(error, 405 if is_known else 404)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                loop = asyncio.get_running_loop()
                self._parts.events.attach(loop)
                self._parts.loop.start()
                self._parts.sweeper.start()
                self._parts.services.start()
                loop.run_in_executor(None, self._parts.engines.prepare)
                await send({"type": "lifespan.startup.complete"})
            else:
                await in_thread(self._parts.close)
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Addresses:
    """The addresses of one method: one expression, whose outermost group that took part names the endpoint."""

    def __init__(self, rows: Iterable[Tuple[str, Endpoint]]) -> None:
        self._found: List[Tuple[Endpoint, List[str], int]] = []
        patterns = []
        groups = 0
        for number, (path, endpoint) in enumerate(rows):
            names = re.findall(r"\{(\w+)(?::path)?\}", path)
            pattern = re.sub(r"\\{\w+:path\\}", "(.*)", re.escape(path))
            pattern = re.sub(r"\\{\w+\\}", "([^/]+)", pattern)
            patterns.append(f"(?P<r{number}>{pattern})")
            self._found.append((endpoint, names, groups + 1))
            groups += 1 + len(names)
        self._expression = re.compile("|".join(patterns), re.DOTALL)

    def find(self, path: str) -> Tuple[Optional[Endpoint], Dict[str, str]]:
        """The endpoint of an address and its parameters; None where there is no such address."""
        found = self._expression.fullmatch(path)
        if found is None or found.lastgroup is None:
            return None, {}
        endpoint, names, first = self._found[int(found.lastgroup[1:])]
        return endpoint, dict(zip(names, found.groups()[first:], strict=False))


def _handlers() -> Dict[str, Handler]:
    """The function of each route's name; one that is not async is carried out on a thread, since it may block."""
    found: Dict[str, Handler] = {}
    for module in HANDLERS:
        for route in TABLE:
            handler = getattr(module, route.name, None)
            if handler is not None:
                is_async = asyncio.iscoroutinefunction(handler)
                found[route.name] = handler if is_async else _threaded(handler, route.name in CONTENTS)
    missing = [route.name for route in TABLE if route.name not in found]
    if missing:
        raise NotImplementedError("routes without a handler: " + ", ".join(missing))
    return found


def _threaded(handler: Callable[[Call], Any], is_about_contents: bool) -> Handler:
    if is_about_contents:
        return lambda call: in_store_thread(call.parts.store, handler, call)
    return lambda call: in_thread(handler, call)


def _endpoint(parts: Parts, route: Route, handler: Handler) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await guarded(parts, request, lambda: _answer(parts, route, handler, request))

    return endpoint


async def guarded(parts: Parts, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
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
    authorization: Optional[str] = None
    if route.permission is not None:
        authorization = request.headers.get("authorization")
        known = parts.keys.find_known(authorization)
        principal = known or await in_thread(
            parts.keys.find, authorization, request.cookies.get(COOKIE), request.method
        )
        check_address(request.path_params)
        check_permission(route, principal, request.path_params)
        workspace = request.path_params.get("workspace")
        if workspace is not None and not parts.keys.is_workspace(workspace):
            await in_thread(parts.keys.check_workspace, workspace)
    body = await _read_body(parts, route, request)
    call = Call(route, principal, request.path_params, request.query_params, body, parts, authorization or "")
    try:
        value = await handler(call)
    finally:
        if isinstance(body, Upload):
            body.path.unlink(missing_ok=True)
    return _reply(parts, route, value)


async def _read_body(parts: Parts, route: Route, request: Request) -> Any:
    if route.method in ("GET", "DELETE"):
        return None
    if route.name in STREAMED:
        return await _stream_body(parts, request)
    is_raw = route.raw and route.request is None
    limit = RAW_MAX if is_raw else JSON_MAX
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
    if is_raw:
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
                    await in_thread(file.write, bytes(pending))
                    pending.clear()
            await in_thread(file.write, bytes(pending))
    except OSError as error:
        os.unlink(name)
        raise errors.StorageFullError(f"The server could not keep the file: {error.strerror}.") from None
    except BaseException:
        os.unlink(name)
        raise
    return Upload(Path(name), size)


def _reply(parts: Parts, route: Route, value: Any) -> Response:
    if isinstance(value, Content):
        return _raw_reply(parts, value)
    if route.response is None:
        return Response(status_code=204)
    return Response(json.dumps(to_wire(value), separators=(",", ":")), media_type="application/json")


def _raw_reply(parts: Parts, content: Content) -> Response:
    headers = dict(content.headers or {})
    headers["Content-Disposition"] = "attachment"
    headers["Content-Security-Policy"] = "sandbox"
    if content.file is None and content.pieces is None:
        return Response(content.data, headers=headers, media_type=content.media_type)
    headers["Content-Length"] = str(content.size_bytes)
    pieces = content.pieces
    if pieces is None and parts.store.is_remote:
        pieces = pieces_of(ARTIFACTS, content.file, content.size_bytes)
    elif pieces is None:
        pieces = _pieces(content.file, content.size_bytes)
    return StreamingResponse(pieces, headers=headers, media_type=content.media_type)


def _pieces(file: Any, size: int) -> Iterator[bytes]:
    """The first ``size`` bytes: a log may have grown since its length was told."""
    with file:
        while size > 0:
            piece = file.read(min(size, PIECE_BYTES))
            if not piece:
                return
            size -= len(piece)
            yield piece


def _error(error: errors.RunyardError, status: Optional[int] = None) -> Response:
    kind = type(error)
    if status is None:
        status = next(code for one, code in _STATUS if issubclass(kind, one))
    body: Dict[str, Union[str, None]] = {"type": kind.__name__, "message": error.message, "hint": error.hint}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(json.dumps({"error": body}), status, headers, media_type="application/json")
