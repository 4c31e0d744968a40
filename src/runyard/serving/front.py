"""A revision's front: HTTP on the service's socket, orders from its supervisor on another, replicas on further ones.

``python -m runyard.serving.front <supervisor's socket> <supervisor's version>``; it ends with its supervisor, which
gives it all that it serves by descriptors: it has no folder to look into. The door is where replicas come that are runs
of a cluster.
"""

import asyncio
import gc
import importlib
import json
import os
import resource
import socket
import ssl
import sys
import time
import traceback
import zipfile
from collections import deque
from contextlib import suppress
from typing import Any, Callable, Coroutine, Deque, Dict, List, Optional, Sequence, Set

from runyard import __version__
from runyard.protocol.services import Revision
from runyard.protocol.wire import loads, prepare, to_wire
from runyard.scoring.program import read_program
from runyard.serving.door import Door
from runyard.serving.endpoint import Endpoint, Keys
from runyard.serving.http import LEAVING_IDLE_S, Connections
from runyard.serving.orders import OTHER_VERSION, path_of, receive_order, send_order
from runyard.serving.replicas import Pool

#: Largest body, and all bodies that may be in memory at once, bytes.
BODY_MAX, MEMORY_MAX = 100 << 20, 1 << 30
#: Connections that may wait to be accepted.
BACKLOG = 2_048
#: How long a front that leaves waits for its last answers, seconds.
LEAVE_S = 30.0
#: A supervisor hears at least so often from its front, seconds.
BEAT_S = 5.0
#: So much is kept for a supervisor that does not read; then what is oldest goes.
UNSAID_MAX = 1_000
#: How long its word to replicas elsewhere that they may end has to go out, seconds.
FAREWELL_S = 0.2


class Front:
    """One front process."""

    def __init__(self, line: socket.socket, given: Dict[str, int]) -> None:
        revision = _read_revision(given["revision"])
        self._line, self._revision = line, revision
        self._listener = socket.socket(fileno=given["listener"])
        self._joins = socket.socket(fileno=given["door"]) if "door" in given else None
        self._pool = Pool(revision.deployment, self._tell)
        self._door = Door(revision, self._pool, self._tell)
        self._compiled = _load_compiled(given["program"], given["constants"]) if "program" in given else None
        self._endpoint = Endpoint(revision, self._pool, self._compiled)
        self._connections = Connections(self._endpoint.handle, self._endpoint.count, BODY_MAX, MEMORY_MAX)
        self._server: Any = None
        self._is_accepting = False
        self._tls: Optional[ssl.SSLContext] = None
        self._told, self._told_at = "", 0.0
        #: What the supervisor has not taken yet, since it does not read at the moment.
        self._unsaid: Deque[Dict[str, Any]] = deque(maxlen=UNSAID_MAX)
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
        if self._unsaid:
            self._say()  # These statistics come again.
        elif text != self._told or now - self._told_at > BEAT_S:
            self._told, self._told_at = text, now
            self._tell({"event": "statistics", "seen": seen, "busy": self._pool.busy_count})

    def _tell(self, event: Dict[str, Any]) -> None:
        self._unsaid.append(event)
        self._say()

    def _say(self) -> None:
        try:
            while self._unsaid:
                send_order(self._line, self._unsaid[0])
                self._unsaid.popleft()
        except BlockingIOError:
            pass  # Once more at the next tick.
        except OSError:
            self._ending.set()

    # What the supervisor says.

    def _obey(self) -> None:
        while True:
            try:
                order, descriptors = receive_order(self._line)
            except BlockingIOError:
                return
            if not order:
                asyncio.get_running_loop().remove_reader(self._line.fileno())
                self._ending.set()
                return
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

    def _do_certificate(self, order: Dict[str, Any], files: List[int]) -> None:
        """Begin with that certificate, or go on with it; one that cannot be gone on with leaves the present one."""
        try:
            made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            made.load_cert_chain(*map(path_of, files))
            if self._tls is None:
                self._tls = made
            else:
                self._tls.load_cert_chain(*map(path_of, files))
        except (ssl.SSLError, OSError) as error:
            if self._tls is None:
                raise
            self._tell({"event": "certificate_refused", "error": str(error)})
        finally:
            for one in files:
                os.close(one)

    def _do_access(self, order: Dict[str, Any], _: List[int]) -> None:
        self._endpoint.keys = Keys(order["access"], order["keys"], order["token_key"])
        if self._joins is not None:
            self._door.set_key(order["token_key"])
            self._begin(self._door.open(self._joins, self._tls))

    def _do_accept(self, order: Dict[str, Any], _: List[int]) -> None:
        self._begin(self._accept())

    def _do_leave(self, order: Dict[str, Any], _: List[int]) -> None:
        self._begin(self._leave())

    async def _accept(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
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


def _read_revision(descriptor: int) -> Revision:
    with open(descriptor, encoding="utf-8") as file:
        return loads(Revision, file.read())


def _load_compiled(program: int, constants: int) -> Any:
    """The compiled model, having worked once."""
    _check_stored(path_of(constants))
    compiled = read_program(path_of(program), path_of(constants))
    os.close(program)
    os.close(constants)
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
    """Serve; the exit code is 0 where the supervisor wanted the end, OTHER_VERSION where it is another release's."""
    if arguments[1:] != [__version__]:
        return OTHER_VERSION
    line = socket.socket(fileno=int(arguments[0]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _prepare()
    order, descriptors = receive_order(line)
    if not order:
        return 0
    given = dict(zip(order["given"], descriptors, strict=True))
    log = given.pop("log")
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)

    async def serve() -> None:
        await Front(line, given).run()

    try:
        _run(serve())
    except Exception as error:  # noqa: BLE001 - told to the supervisor, whole
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-20_000:]}
        line.setblocking(True)
        send_order(line, {"event": "front_failed", **said})
        return 1
    return 0


def _prepare() -> None:
    """Do now what would be done first with a model: whoever deploys one need not wait for that."""
    for name in ("numpy", "uvloop"):
        with suppress(ImportError):
            importlib.import_module(name)
    prepare(Revision)


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
