"""Large contents straight to and from where the server's contents lie, by addresses that the server signs.

Nothing of ours goes along: an address is good for one part or one content, for some minutes, and no redirect is
followed. Where the place cannot be reached from here, the bytes go through the server.
"""

import atexit
import http.client
import os
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple, TypeVar
from urllib.parse import urlsplit

from runyard.client.http import Server
from runyard.errors import ConflictError, IntegrityError, NotFoundError, PermissionDeniedError, ServiceException
from runyard.protocol.blobs import DigestList, PartList, SignedPart, Upload, UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, combine

#: Parts on their way at once, and parts that are signed at once.
WIDTH, SIGN_COUNT = 4, 32
#: Longest wait for a connection, and for a byte, seconds.
CONNECT_S, READ_S = 5.0, 60.0
#: How often a part is tried, and an upload is gone on with.
TRIES, ROUNDS = 5, 5
#: How long a place that could not be reached is not asked again by this process, seconds.
SHUNNED_S = 300.0

Progress = Callable[[int], None]
T = TypeVar("T")

_BROKEN = (OSError, http.client.HTTPException)
_shunned: Dict[str, float] = {}
_lock = threading.Lock()
#: Open connections that nobody uses, by scheme, place and process.
_idle: Dict[Tuple[str, str, int], List[http.client.HTTPConnection]] = {}


class _OutOfReach(Exception):
    """The place cannot be reached from here, or does not take its own address."""


class _Expired(Exception):
    """The address is too old."""


def send_parts(server: Server, workspace: str, digest: str, path: str, progress: Optional[Progress] = None) -> None:
    """Send a content of more than one chunk, and go on where an earlier try broke off; returns once it is stored.

    ServiceException where neither the place nor the server takes it, after several tries.
    """
    size = os.path.getsize(path)
    chunks = hash_chunks(path, size)
    told: Set[int] = set()
    spec = UploadSpec(digest, size, tuple(one.hex() for one in chunks), direct=True)
    problem: Exception = ServiceException(f"{path!r} could not be sent; try again.")
    for attempt in range(ROUNDS):
        upload = server.call("begin_upload", spec, workspace=workspace)
        sender = _Sender(server, workspace, upload, path, size, told, progress)
        try:
            sender.send()
            sender.finish(digest)
            return
        except _OutOfReach as error:
            problem = ServiceException(f"{path!r} could not be sent: {error}.")
            spec = UploadSpec(digest, size, spec.chunks, direct=False)
        except (ConflictError, NotFoundError) as error:
            # A part is missing after all, or the upload was given up: the next round knows.
            problem = error
            time.sleep(min(5.0, 0.2 * 2**attempt))
    raise problem


def receive_direct(
    server: Server, workspace: str, digest: str, target: str, progress: Optional[Progress] = None
) -> bool:
    """Write a content to ``target`` from where it lies, all of it or nothing; False where it comes by the server only.

    IntegrityError where what lies there is not that content.
    """
    try:
        found = server.call("get_blob_address", workspace=workspace, digest=digest)
    except PermissionDeniedError:
        # A run's token reads what belongs to the run, and no content by its digest.
        return False
    if not found.url or _is_shunned(found.url):
        return False
    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{os.path.basename(target)[:100]}.{os.urandom(4).hex()}.part")
    done: List[int] = []

    def sign() -> str:
        return str(server.call("get_blob_address", workspace=workspace, digest=digest).url)

    try:
        with open(partial, "wb") as file:
            reader = _Reader(found.url, sign, found.size_bytes, file.fileno())
            digests = _in_order(reader.read, range(0, found.size_bytes, CHUNK_BYTES), done, progress)
        if combine(digests) != digest:
            raise IntegrityError(f"{target} arrived damaged: its digest is not {digest}; try again.")
        os.replace(partial, target)
        return True
    except _OutOfReach:
        if progress is not None and done:
            progress(-sum(done))
        return False
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def hash_chunks(path: str, size: int) -> List[bytes]:
    """The raw SHA-256 of each chunk of a file, computed on several threads."""
    with open(path, "rb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        descriptor = file.fileno()
        starts = range(0, size, CHUNK_BYTES)
        return list(pool.map(lambda start: sha256(os.pread(descriptor, CHUNK_BYTES, start)).digest(), starts))


class _Sender:
    """One round of an upload."""

    def __init__(
        self,
        server: Server,
        workspace: str,
        upload: Upload,
        path: str,
        size: int,
        told: Set[int],
        progress: Optional[Progress],
    ) -> None:
        self._server, self._workspace, self._upload = server, workspace, upload
        self._path, self._size = path, size
        self._told, self._progress = told, progress

    def send(self) -> None:
        """Send what is not there yet."""
        count = -(-self._size // CHUNK_BYTES)
        present = set(self._upload.present)
        for number in present:
            self._tell(number)
        missing = [number for number in range(1, count + 1) if number not in present]
        with open(self._path, "rb") as file:
            for first in range(0, len(missing), SIGN_COUNT):
                some = missing[first : first + SIGN_COUNT]
                if self._upload.is_direct:
                    self._send_direct(some, file.fileno())
                else:
                    _each(lambda number: self._append(number, file.fileno()), some)

    def finish(self, digest: str) -> None:
        """Wait until the server has made sure of what arrived."""
        names: Dict[str, Any] = {"workspace": self._workspace, "upload_id": self._upload.upload_id}
        while not self._server.call("finish_upload", DigestList((digest,)), **names).digests:
            time.sleep(0.1)

    def _send_direct(self, numbers: List[int], descriptor: int) -> None:
        parts = self._sign(numbers)
        if _is_shunned(parts[0].url):
            raise _OutOfReach("the store cannot be reached from here")
        _each(lambda part: self._put(part, descriptor), parts)

    def _sign(self, numbers: Iterable[int]) -> List[SignedPart]:
        names: Dict[str, Any] = {"workspace": self._workspace, "upload_id": self._upload.upload_id}
        found: List[SignedPart] = self._server.call("sign_parts", PartList(tuple(numbers)), **names)
        return found

    def _put(self, part: SignedPart, descriptor: int) -> None:
        data = self._read(part.number, descriptor)
        for _ in range(2):
            try:
                _ask("PUT", part.url, data, part.headers)
                self._tell(part.number)
                return
            except _Expired:
                (part,) = self._sign([part.number])
        raise _OutOfReach("the store refuses the addresses that the server signs")

    def _append(self, number: int, descriptor: int) -> None:
        offset = (number - 1) * CHUNK_BYTES
        names: Dict[str, Any] = {"workspace": self._workspace, "upload_id": self._upload.upload_id}
        _patiently(
            lambda: self._server.call("append_upload", self._read(number, descriptor), {"offset": offset}, **names)
        )
        self._tell(number)

    def _read(self, number: int, descriptor: int) -> bytes:
        return os.pread(descriptor, CHUNK_BYTES, (number - 1) * CHUNK_BYTES)

    def _tell(self, number: int) -> None:
        if number not in self._told:
            self._told.add(number)
            if self._progress is not None:
                self._progress(min(CHUNK_BYTES, self._size - (number - 1) * CHUNK_BYTES))


class _Reader:
    """The chunks of one content, each asked for until it is there."""

    def __init__(self, url: str, sign: Callable[[], str], size: int, descriptor: int) -> None:
        self._url, self._sign = url, sign
        self._size, self._descriptor = size, descriptor

    def read(self, start: int) -> Tuple[bytes, int]:
        """Write the chunk that begins there; returns its SHA-256 and its bytes."""
        size = min(CHUNK_BYTES, self._size - start)
        for _ in range(2):
            try:
                data = _ask("GET", self._url, None, {"Range": f"bytes={start}-{start + size - 1}"}, size)
                break
            except _Expired:
                self._url = self._sign()
        else:
            raise _OutOfReach("the store refuses the addresses that the server signs")
        os.pwrite(self._descriptor, data, start)
        return sha256(data).digest(), size


def _each(function: Callable[[T], None], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(WIDTH) as pool:
        jobs = [pool.submit(function, one) for one in items]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise


def _in_order(
    read: Callable[[int], Tuple[bytes, int]], starts: Iterable[int], done: List[int], progress: Optional[Progress]
) -> List[bytes]:
    found = []
    with ThreadPoolExecutor(WIDTH) as pool:
        jobs = [pool.submit(read, start) for start in starts]
        try:
            for job in jobs:
                digest, size = job.result()
                found.append(digest)
                done.append(size)
                if progress is not None:
                    progress(size)
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
    return found


def _patiently(call: Callable[[], Any]) -> Any:
    """The call's value; a server whose store does not answer is asked again, some times."""
    for attempt in range(TRIES):
        try:
            return call()
        except ServiceException as error:
            if type(error) is not ServiceException or attempt + 1 == TRIES:
                raise
            time.sleep(min(5.0, 0.5 * 2**attempt))
    return None


def _ask(method: str, url: str, data: Optional[bytes], headers: Dict[str, str], size: int = -1) -> bytes:
    """The reply's body, of exactly ``size`` bytes where that is said; tried again where it breaks off."""
    parts = urlsplit(url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(4.0, 0.1 * 2**attempt))
        try:
            connection = _take(parts.scheme, parts.netloc)
        except _BROKEN as error:
            problem = str(error)
            if attempt >= 1:
                break
            continue
        try:
            connection.request(method, target, data, headers)
            reply = connection.getresponse()
            body = reply.read()
        except _BROKEN as error:
            connection.close()
            problem = f"the transfer broke off: {error}"
            continue
        _give_back(parts.scheme, parts.netloc, connection)
        if reply.status in (200, 201, 206) and size in (-1, len(body)):
            return body
        if reply.status in (401, 403):
            raise _Expired
        problem = f"the store answered {reply.status}"
        if reply.status < 500 and reply.status not in (200, 206, 408, 429):
            break
    _shunned[parts.netloc] = time.monotonic()
    raise _OutOfReach(problem)


def _is_shunned(url: str) -> bool:
    at = _shunned.get(urlsplit(url).netloc)
    return at is not None and time.monotonic() - at < SHUNNED_S


def _take(scheme: str, netloc: str) -> http.client.HTTPConnection:
    """A connection to that place that nobody uses; a new one is connected."""
    with _lock:
        idle = _idle.get((scheme, netloc, os.getpid()))
        if idle:
            return idle.pop()
    if scheme == "https":
        made: http.client.HTTPConnection = http.client.HTTPSConnection(
            netloc, timeout=CONNECT_S, context=ssl.create_default_context()
        )
    else:
        made = http.client.HTTPConnection(netloc, timeout=CONNECT_S)
    made.connect()
    if made.sock is not None:
        made.sock.settimeout(READ_S)
    return made


def _give_back(scheme: str, netloc: str, connection: http.client.HTTPConnection) -> None:
    with _lock:
        if not _idle:
            atexit.register(_close_idle)
        idle = _idle.setdefault((scheme, netloc, os.getpid()), [])
        if connection.sock is not None and len(idle) < WIDTH:
            idle.append(connection)
            return
    connection.close()


def _close_idle() -> None:
    with _lock:
        for connections in _idle.values():
            while connections:
                connections.pop().close()
