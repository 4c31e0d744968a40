"""Downloads a URL with checks: the address is looked up once and judged, every redirect again. Standard library.

Used by the client and the runner, and by the server for datastores on the web. Proxies of the environment are not used:
behind one, the address that is connected to cannot be judged.
"""

import http.client
import ipaddress
import os
import socket
import ssl
import time
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from runyard.errors import AzureMLException, StorageFullError, UserErrorException
from runyard.files.layout import DISK_FULL
from runyard.protocol.mounts import shown_url
from runyard.protocol.record import record

#: Redirects followed.
REDIRECTS_MAX = 5
#: Read size, bytes.
PIECE_BYTES = 1 << 20
#: How often a download is tried without a byte coming, and the pauses between, seconds.
TRIES_MAX, RETRY_FIRST_S, RETRY_LAST_S = 5, 0.1, 8.0
#: How old a change must be for its time, which has whole seconds, to tell it from the next one, seconds.
SETTLED_S = 2.0
#: What a server answers that sends its callers on.
_REDIRECTS = (301, 302, 303, 307, 308)
#: What a server answers that may do better soon.
_AGAIN = (408, 416, 429, 500, 502, 503, 504)

Resolver = Callable[[str, int], List[str]]
Progress = Callable[[int, Optional[int]], None]


@record
class FetchLimits:
    """How much and how long."""

    max_bytes: int = 1 << 40
    #: Without a byte.
    stall_s: float = 60.0
    total_s: float = 24 * 3600.0


@record
class Fetched:
    """What was downloaded; ``etag`` and ``modified`` are what the server called this state of it."""

    size_bytes: int
    etag: Optional[str]
    sha256: str
    modified: Optional[str] = None


def resolve(host: str, port: int) -> List[str]:
    """The addresses of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


#: What stands as it is in the path and query of an address.
_URL_SAFE = "/?%:@!$&'()*+,;=~-._"


def is_private(address: str) -> bool:
    """Is this an address that only this machine or its network knows?"""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return not (mapped or ip).is_global or (mapped or ip).is_multicast


def fetch(
    url: str,
    target: str,
    allow_private: bool,
    limits: FetchLimits = FetchLimits(),
    progress: Optional[Progress] = None,
    resolver: Resolver = resolve,
    known: Optional[Fetched] = None,
) -> Optional[Fetched]:
    """Download ``url`` to ``target``, all of it or nothing; None where it is ``known`` still, and nothing came.

    What breaks off is taken up where it stopped, if the server says that the file is the same still.
    UserErrorException for an address that may not be asked; AzureMLException for a server that fails, keeps breaking
    off or sends too much; ``progress`` gets bytes so far and in all (None if unknown).
    """
    download = _Download(url, target, allow_private, limits, progress, resolver)
    try:
        return download.carry_out(known)
    finally:
        download.clean_up()


def partial_name(target: str) -> str:
    """A new name beside ``target`` for a file on its way there; the target's own may be as long as names can be."""
    return os.path.join(os.path.dirname(target), f".{os.urandom(8).hex()}.part")


@record
class Head:
    """What a web server says of a file before it sends it."""

    is_there: bool
    #: None where it does not tell.
    size_bytes: Optional[int] = None
    #: What it calls this state of the file; '' where it does not.
    tag: str = ""


def ask_head(url: str, allow_private: bool, limits: FetchLimits = FetchLimits()) -> Head:
    """What the server says of that address; errors as of ``fetch``."""
    try:
        with _answer("HEAD", url, {}, allow_private, limits, resolve) as (reply, _):
            length = reply.getheader("Content-Length") or ""
            tag = (reply.getheader("ETag") or _last_change(reply) or "").strip('"')
            return Head(reply.status == 200, int(length) if length.isdigit() else None, tag)
    except _Broken as error:
        raise AzureMLException(str(error)) from None


class _Broken(Exception):
    """The transfer ended before its time; it may go on."""


class _Download:
    """One file on its way, however often that breaks off."""

    def __init__(
        self,
        url: str,
        target: str,
        allow_private: bool,
        limits: FetchLimits,
        progress: Optional[Progress],
        resolver: Resolver,
    ) -> None:
        self._url = url
        self._target = target
        self._allow_private = allow_private
        self._limits = limits
        self._progress = progress
        self._resolver = resolver
        self._ends_at = time.monotonic() + limits.total_s
        self._partial = partial_name(target)
        self._hasher = sha256()
        self._size = 0
        self._validator: Optional[str] = None

    def carry_out(self, known: Optional[Fetched]) -> Optional[Fetched]:
        """Ask until it is here; each time that something came, the tries begin anew."""
        tries = 0
        while True:
            before = self._size
            try:
                return self._ask_once(known)
            except _Broken as error:
                tries = 1 if self._size > before else tries + 1
                if tries >= TRIES_MAX or time.monotonic() > self._ends_at:
                    raise AzureMLException(str(error)) from None
                time.sleep(min(RETRY_LAST_S, RETRY_FIRST_S * 2**tries))

    def clean_up(self) -> None:
        """Leave nothing half-written."""
        if os.path.exists(self._partial):
            os.unlink(self._partial)

    def _ask_once(self, known: Optional[Fetched]) -> Optional[Fetched]:
        way = self._allow_private, self._limits, self._resolver, self._size > 0
        with _answer("GET", self._url, self._conditions(known), *way) as (reply, url):
            if reply.status == 304 and known is not None:
                return None
            self._check_status(reply, url)
            return self._receive(reply, url)

    def _check_status(self, reply: http.client.HTTPResponse, url: str) -> None:
        if reply.status == 416:
            # There is nothing behind what is here, and no length said so: from the start again.
            self._size, self._validator = 0, None
        if reply.status in _AGAIN:
            raise _Broken(f"{shown_url(url)} answered {reply.status} {reply.reason}.")
        if reply.status not in (200, 206):
            raise AzureMLException(f"{shown_url(url)} answered {reply.status} {reply.reason}.")

    def _conditions(self, known: Optional[Fetched]) -> Dict[str, str]:
        if self._size and self._validator:
            return {"Range": f"bytes={self._size}-", "If-Range": self._validator}
        if known is not None and known.etag:
            return {"If-None-Match": known.etag}
        if known is not None and known.modified:
            return {"If-Modified-Since": known.modified}
        return {}

    def _receive(self, reply: http.client.HTTPResponse, url: str) -> Fetched:
        self._begin(reply)
        length = reply.getheader("Content-Length")
        total = self._size + int(length) if length and length.isdigit() else None
        if total is not None and total > self._limits.max_bytes:
            raise AzureMLException(f"{shown_url(url)} has {total} bytes; the limit is {self._limits.max_bytes}.")
        try:
            with open(self._partial, "ab") as file:
                self._take(reply, url, file, total)
                if total is not None and self._size != total:
                    raise _Broken(f"{shown_url(url)} ended after {self._size} of {total} bytes.")
            os.replace(self._partial, self._target)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise StorageFullError(f"The disk of {self._target} is full; free some space on it.") from None
            raise _Broken(f"The download of {shown_url(url)} broke off after {self._size} bytes: {error}.") from None
        return Fetched(self._size, reply.getheader("ETag"), self._hasher.hexdigest(), _last_change(reply))

    def _begin(self, reply: http.client.HTTPResponse) -> None:
        """Go on behind what is here, if that is what the server sends; else from the start."""
        wanted = f"bytes {self._size}-"
        if reply.status == 206 and self._size and (reply.getheader("Content-Range") or "").startswith(wanted):
            return
        if reply.status == 206:
            raise AzureMLException(f"{shown_url(self._url)} sends another part than it was asked for.")
        self._hasher, self._size = sha256(), 0
        self.clean_up()
        etag = reply.getheader("ETag") or ""
        # Only a strong tag says that not one byte has changed.
        self._validator = etag if etag and not etag.startswith("W/") else _last_change(reply)

    def _take(self, reply: http.client.HTTPResponse, url: str, file: BinaryIO, total: Optional[int]) -> None:
        while True:
            piece = reply.read(PIECE_BYTES)
            if not piece:
                return
            if self._size + len(piece) > self._limits.max_bytes or time.monotonic() > self._ends_at:
                raise AzureMLException(f"{shown_url(url)} sends too much or too slowly; given up.")
            file.write(piece)
            self._hasher.update(piece)
            self._size += len(piece)
            if self._progress is not None:
                self._progress(self._size, total)


@contextmanager
def _answer(
    method: str,
    url: str,
    headers: Dict[str, str],
    allow_private: bool,
    limits: FetchLimits,
    resolver: Resolver,
    is_again: bool = False,
) -> Iterator[Tuple[http.client.HTTPResponse, str]]:
    """What is answered where all redirects end, and that address; each on the way is judged as the first one was."""
    came_from_public = False
    for _ in range(REDIRECTS_MAX + 1):
        connection, is_public = _connect(url, allow_private, came_from_public, limits, resolver, is_again)
        with closing(connection), closing(_ask(connection, method, url, headers)) as reply:
            location = reply.getheader("Location") if reply.status in _REDIRECTS else None
            if not location:
                yield reply, url
                return
        url, came_from_public = _redirected(url, location), came_from_public or is_public
    raise AzureMLException(f"{shown_url(url)} redirects more than {REDIRECTS_MAX} times.")


def _connect(
    url: str, allow_private: bool, came_from_public: bool, limits: FetchLimits, resolver: Resolver, is_again: bool
) -> Tuple[http.client.HTTPConnection, bool]:
    """A connection to the very address that was judged, and whether it is public.

    A server that cannot be reached at first is not there; one that sent something already (``is_again``) may come back.
    """
    parts = _split(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    try:
        addresses = resolver(host, port)
    except OSError as error:
        raise AzureMLException(f"The host of {shown_url(url)} is not known: {error}.") from None
    failure: Optional[Exception] = None
    for address in addresses:
        connection = http.client.HTTPConnection(host, port, timeout=limits.stall_s)
        try:
            _judge(url, address, allow_private, came_from_public)
            raw: Any = socket.create_connection((address, port), limits.stall_s)
            if parts.scheme == "https":
                raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        except UserErrorException as error:
            failure = failure or error
        except OSError as error:
            kind = _Broken if is_again else AzureMLException
            failure = kind(f"{shown_url(url)} cannot be reached: {error}.")
        else:
            connection.sock = raw
            return connection, not is_private(address)
    raise failure or AzureMLException(f"The host of {shown_url(url)} has no address.")


def _judge(url: str, address: str, allow_private: bool, came_from_public: bool) -> None:
    """UserErrorException where this address may not be asked."""
    if not is_private(address):
        return
    if came_from_public:
        raise UserErrorException(f"{shown_url(url)} redirects to the private address {address}; refused.")
    if not allow_private:
        raise UserErrorException(
            f"{shown_url(url)} lies at the private address {address}; "
            "set RUNYARD_ALLOW_PRIVATE_URLS=1 on the server to allow it."
        )


def _ask(
    connection: http.client.HTTPConnection, method: str, url: str, headers: Dict[str, str]
) -> http.client.HTTPResponse:
    parts = _split(url)
    # A blank or a letter beyond ASCII is sent as browsers do; what is quoted already stays.
    path = quote((parts.path or "/") + ("?" + parts.query if parts.query else ""), safe=_URL_SAFE)
    try:
        connection.request(method, path, headers={"Accept-Encoding": "identity", "User-Agent": "runyard", **headers})
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"{shown_url(url)} did not answer: {error}.") from None


def _last_change(reply: http.client.HTTPResponse) -> Optional[str]:
    """When the file changed last, if it cannot have changed again in that very second (RFC 9110, 8.8.2.2)."""
    changed, now = reply.getheader("Last-Modified"), reply.getheader("Date")
    try:
        age = parsedate_to_datetime(now or "") - parsedate_to_datetime(changed or "")
    except (TypeError, ValueError, IndexError):
        return None
    return changed if age.total_seconds() >= SETTLED_S else None


def _redirected(url: str, location: str) -> str:
    found = urljoin(url, location)
    if _split(url).scheme == "https" and _split(found).scheme != "https":
        raise UserErrorException(f"{shown_url(url)} redirects to an address without TLS; refused.")
    return found


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserErrorException(f"{shown_url(url)!r} is not a http or https address.")
    return parts
