"""Downloads a URL with checks: the address is looked up once and judged, every redirect again. Standard library.

Used by the client and the runner, never by the server. Proxies of the environment are not used: behind one, the address
that is connected to cannot be judged.
"""

import http.client
import ipaddress
import os
import socket
import ssl
import time
from hashlib import sha256
from typing import Any, Callable, List, Optional, Tuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from runyard.errors import AzureMLException, StorageFullError, UserErrorException
from runyard.files.layout import DISK_FULL
from runyard.protocol.record import record

#: Redirects followed.
REDIRECTS_MAX = 5
#: Read size, bytes.
PIECE_BYTES = 1 << 20

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
    """What was downloaded."""

    size_bytes: int
    etag: Optional[str]
    sha256: str


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
) -> Fetched:
    """Download ``url`` to ``target``, all of it or nothing.

    UserErrorException for an address that may not be asked; AzureMLException for a server that fails, cuts the reply
    short or sends too much; ``progress`` gets bytes so far and in all (None if unknown).
    """
    ends_at = time.monotonic() + limits.total_s
    came_from_public = False
    for _ in range(REDIRECTS_MAX + 1):
        connection, is_public = _connect(url, allow_private, came_from_public, limits, resolver)
        try:
            reply = _ask(connection, url)
            location = reply.getheader("Location")
            if reply.status in (301, 302, 303, 307, 308) and location:
                url = _redirected(url, location)
                came_from_public = came_from_public or is_public
                continue
            if reply.status != 200:
                raise AzureMLException(f"{_shown(url)} answered {reply.status} {reply.reason}.")
            return _receive(reply, url, target, limits, ends_at, progress)
        finally:
            connection.close()
    raise AzureMLException(f"{_shown(url)} redirects more than {REDIRECTS_MAX} times.")


def _connect(
    url: str, allow_private: bool, came_from_public: bool, limits: FetchLimits, resolver: Resolver
) -> Tuple[http.client.HTTPConnection, bool]:
    """A connection to the very address that was judged, and whether it is public."""
    parts = _split(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    try:
        addresses = resolver(host, port)
    except OSError as error:
        raise AzureMLException(f"The host of {_shown(url)} is not known: {error}.") from None
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
            failure = AzureMLException(f"{_shown(url)} cannot be reached: {error}.")
        else:
            connection.sock = raw
            return connection, not is_private(address)
    raise failure or AzureMLException(f"The host of {_shown(url)} has no address.")


def _judge(url: str, address: str, allow_private: bool, came_from_public: bool) -> None:
    """UserErrorException where this address may not be asked."""
    if not is_private(address):
        return
    if came_from_public:
        raise UserErrorException(f"{_shown(url)} redirects to the private address {address}; refused.")
    if not allow_private:
        raise UserErrorException(
            f"{_shown(url)} lies at the private address {address}; "
            "set RUNYARD_ALLOW_PRIVATE_URLS=1 on the server to allow it."
        )


def _ask(connection: http.client.HTTPConnection, url: str) -> http.client.HTTPResponse:
    parts = _split(url)
    # A blank or a letter beyond ASCII is sent as browsers do; what is quoted already stays.
    path = quote((parts.path or "/") + ("?" + parts.query if parts.query else ""), safe=_URL_SAFE)
    try:
        connection.request("GET", path, headers={"Accept-Encoding": "identity", "User-Agent": "runyard"})
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise AzureMLException(f"{_shown(url)} did not answer: {error}.") from None


def _receive(
    reply: http.client.HTTPResponse,
    url: str,
    target: str,
    limits: FetchLimits,
    ends_at: float,
    progress: Optional[Progress],
) -> Fetched:
    length = reply.getheader("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if total is not None and total > limits.max_bytes:
        raise AzureMLException(f"{_shown(url)} has {total} bytes; the limit is {limits.max_bytes}.")
    partial = f"{target}.{os.urandom(4).hex()}.part"
    hasher, size = sha256(), 0
    try:
        with open(partial, "wb") as file:
            while True:
                piece = reply.read(PIECE_BYTES)
                if not piece:
                    break
                size += len(piece)
                if size > limits.max_bytes or time.monotonic() > ends_at:
                    raise AzureMLException(f"{_shown(url)} sends too much or too slowly; given up.")
                hasher.update(piece)
                file.write(piece)
                if progress is not None:
                    progress(size, total)
        if total is not None and size != total:
            raise AzureMLException(f"{_shown(url)} ended after {size} of {total} bytes.")
        os.replace(partial, target)
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in DISK_FULL:
            raise StorageFullError(f"The disk of {target} is full; free some space on it.") from None
        raise AzureMLException(f"The download of {_shown(url)} broke off after {size} bytes: {error}.") from None
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return Fetched(size, reply.getheader("ETag"), hasher.hexdigest())


def _redirected(url: str, location: str) -> str:
    found = urljoin(url, location)
    if _split(url).scheme == "https" and _split(found).scheme != "https":
        raise UserErrorException(f"{_shown(url)} redirects to an address without TLS; refused.")
    return found


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserErrorException(f"{url[:200]!r} is not a http or https address.")
    return parts


def _shown(url: str) -> str:
    """The address without a user's password or a signature in its query."""
    parts = urlsplit(url)
    return "{}://{}{}".format(parts.scheme, parts.netloc.rpartition("@")[2], parts.path)[:300]
