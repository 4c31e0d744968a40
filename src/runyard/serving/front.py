"""A revision's front: HTTP on the service's socket, orders from its supervisor on another, replicas on further ones.

``python -m runyard.serving.front <supervisor's socket> <listening socket> <door's socket, or -> <revision's folder>``;
it ends with its supervisor. The door is where replicas come that are runs of a cluster.
"""

import asyncio
import gc
import json
import os
import resource
import socket
import ssl
import sys
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any, Callable, Coroutine, Dict, List, Optional, Sequence, Set

from runyard.protocol.scoring import CONSTANTS_FILE
from runyard.protocol.services import REVISION_FILE, SCORING_FILE, Revision
from runyard.protocol.wire import loads, to_wire
from runyard.serving.door import Door
from runyard.serving.endpoint import Endpoint, Keys
from runyard.serving.http import LEAVING_IDLE_S, Connections
from runyard.serving.orders import ORDER_MAX, send_order
from runyard.serving.replicas import Pool

#: Largest body, and all bodies that may be in memory at once, bytes.
BODY_MAX, MEMORY_MAX = 100 << 20, 1 << 30
#: Connections that may wait to be accepted.
BACKLOG = 2_048
#: How long a front that leaves waits for its last answers, seconds.
LEAVE_S = 30.0
#: A supervisor hears at least so often from its front, seconds.
BEAT_S = 5.0
#: How long its word to replicas elsewhere that they may end has to go out, seconds.
FAREWELL_S = 0.2


class Front:
    """One front process."""

    def __init__(
        self, line: socket.socket, listener: socket.socket, joins: Optional[socket.socket], revision: Revision,
        scoring: Dict[str, Any],
    ) -> None:  # fmt: skip
        self._line, self._listener, self._joins, self._revision = line, listener, joins, revision
        self._pool = Pool(revision.deployment, self._tell)
        self._door = Door(revision, self._pool, self._tell)
        self._compiled = _load_compiled(scoring) if scoring.get("is_inline") else None
        self._endpoint = Endpoint(revision, self._pool, self._compiled)
        self._connections = Connections(self._endpoint.handle, self._endpoint.count, BODY_MAX, MEMORY_MAX)
        self._server: Any = None
        self._tls: Optional[ssl.SSLContext] = None
        self._told, self._told_at = "", 0.0
        #: What was asked for and could not be done.
        self._failure: Optional[Exception] = None
        self._ending = asyncio.Event()
        #: Of what is under way: the loop holds tasks weakly.
        self._tasks: Set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the supervisor is gone or says so."""
        self._line.setblocking(False)
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._obey)
        self._tell({"event": "front_ready"})
        gc.freeze()
        await self._tick()
        if self._failure is not None:
            raise self._failure

    async def _tick(self) -> None:
        while not self._ending.is_set():
            try:
                await asyncio.wait_for(self._ending.wait(), 1.0)
            except TimeoutError:
                pass
            self._connections.sweep(time.monotonic())
            self._pool.look(time.monotonic())
            self._tell_statistics()

    def _tell_statistics(self) -> None:
        seen = to_wire(self._endpoint.statistics.seen())
        text, now = json.dumps([seen, self._pool.busy_count]), time.monotonic()
        if text != self._told or now - self._told_at > BEAT_S:
            self._told, self._told_at = text, now
            self._tell({"event": "statistics", "seen": seen, "busy": self._pool.busy_count})

    def _tell(self, event: Dict[str, Any]) -> None:
        try:
            send_order(self._line, event)
        except BlockingIOError:
            pass  # A supervisor that does not read. Statistics come again.
        except OSError:
            self._ending.set()

    # What the supervisor says.

    def _obey(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._line, ORDER_MAX, 4)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                asyncio.get_running_loop().remove_reader(self._line.fileno())
                self._ending.set()
                return
            order = json.loads(data)
            act: Callable[..., None] = getattr(self, "_do_" + order["do"])
            try:
                act(order, descriptors)
            except Exception as error:  # noqa: BLE001 - as a certificate that cannot be read; told once the loop has ended
                self._failure = error
                self._ending.set()
                return

    def _do_replica(self, order: Dict[str, Any], descriptors: List[int]) -> None:
        replica = self._pool.add(order["replica"])
        line = socket.socket(fileno=descriptors[0])
        line.setblocking(False)
        self._begin(_connect(replica, line))

    def _do_dismiss(self, order: Dict[str, Any], _: List[int]) -> None:
        self._pool.dismiss(order["replica"])

    def _do_drop(self, order: Dict[str, Any], _: List[int]) -> None:
        self._pool.drop(order["replica"])

    def _do_access(self, order: Dict[str, Any], _: List[int]) -> None:
        self._endpoint.keys = Keys(order["access"], order["keys"], order["token_key"])
        if order.get("certificate") and self._tls is None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(order["certificate"], order["certificate_key"])
        if self._joins is not None:
            self._door.set_key(order["token_key"])
            self._begin(self._door.open(self._joins, self._tls))

    def _do_accept(self, order: Dict[str, Any], _: List[int]) -> None:
        self._begin(self._accept())

    def _do_leave(self, order: Dict[str, Any], _: List[int]) -> None:
        self._begin(self._leave())

    async def _accept(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            # A duplicate: this server may be closed while the other revision's goes on with the same socket.
            listener = self._listener.dup()
            self._server = await loop.create_server(
                self._connections.make, sock=listener, backlog=BACKLOG, ssl=self._tls
            )

    async def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
        began = now = time.monotonic()
        until = began + max(LEAVE_S, self._revision.deployment.timeout_s)
        # One that was taken a moment ago may not be among them yet.
        while (self._connections.open or now < began + LEAVING_IDLE_S) and now < until:
            self._connections.leave(now)
            await asyncio.sleep(0.05)
            now = time.monotonic()
        self._tell_statistics()
        if self._joins is not None:
            self._pool.dismiss_all()
            await asyncio.sleep(FAREWELL_S)
        self._ending.set()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())


def _load_compiled(scoring: Dict[str, Any]) -> Any:
    """The compiled model, having worked once; None where there is none."""
    folder = scoring.get("compiled")
    if not folder:
        return None
    from runyard.scoring.program import load_program

    _check_stored(os.path.join(folder, CONSTANTS_FILE))
    compiled = load_program(folder)
    inputs = compiled.sample(compiled.facts().default)
    if inputs is not None:
        compiled.predict(compiled.facts().default, inputs)
    return compiled


def _check_stored(path: str) -> None:
    """ValueError where the constants would be larger in memory than in their file: a hostile model has written it."""
    with zipfile.ZipFile(path) as stored:
        size = sum(one.file_size for one in stored.infolist())
    if size > os.path.getsize(path):
        raise ValueError(f"The compiled model's constants have {size} bytes, and their file is smaller.")


async def _connect(replica: Any, line: socket.socket) -> None:
    await asyncio.get_running_loop().create_unix_connection(lambda: replica, sock=line)


def main(arguments: Sequence[str]) -> int:
    """Serve; the exit code is 0 where the supervisor wanted the end."""
    line, listener = (socket.socket(fileno=int(one)) for one in arguments[:2])
    joins = None if arguments[2] == "-" else socket.socket(fileno=int(arguments[2]))
    folder = Path(arguments[3])
    revision = loads(Revision, (folder / REVISION_FILE).read_text("utf-8"))
    scoring = json.loads((folder / SCORING_FILE).read_text("utf-8"))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def serve() -> None:
        await Front(line, listener, joins, revision, scoring).run()

    try:
        _run(serve())
    except Exception as error:  # noqa: BLE001 - told to the supervisor, whole
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-20_000:]}
        line.setblocking(True)
        send_order(line, {"event": "front_failed", **said})
        return 1
    return 0


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")
    sys.exit(main(sys.argv[1:]))
