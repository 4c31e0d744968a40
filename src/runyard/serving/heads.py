"""Heads of HTTP/1.1: the host and address that a request names, and how an answer's is written."""

import re
from typing import Any, Dict, Optional, Set, Tuple
from urllib.parse import unquote

REASONS = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type",
    417: "Expectation Failed", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported", 507: "Insufficient Storage",
}  # fmt: skip
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[A-Fa-f0-9:.]+\])(?::[0-9]*)?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_addresses: Dict[bytes, Tuple[str, str]] = {}
#: What a caller that takes this for a proxy writes before the path.
_whole_form = re.compile("^https?://[^/?]*", re.IGNORECASE)


def address_of(url: bytes) -> Tuple[str, str]:
    """(path, query); nearly all requests of a service have one of a few addresses."""
    found = _addresses.get(url)
    if found is None:
        path, _, query = _whole_form.sub("", url.decode("latin-1")).partition("?")
        path = path or "/"
        found = (unquote(path) if "%" in path else path), query
        if len(_addresses) < 1_000 and len(url) < 200:
            _addresses[url] = found
    return found


_known_hosts: Set[bytes] = set()


def is_host(value: bytes) -> bool:
    """Is that a host, with or without a port? Nearly all requests name one of a few."""
    if value in _known_hosts:
        return True
    is_one = _HOST.fullmatch(value) is not None
    if is_one and len(_known_hosts) < 1_000 and len(value) < 200:
        _known_hosts.add(value)
    return is_one


_heads: Dict[Any, bytes] = {}


def head_of(status: int, size: int, content_type: str, headers: Optional[Dict[str, str]]) -> bytes:
    """The status line and headers of an answer, without the blank line."""
    key = (status, content_type)
    begin = _heads.get(key)
    if begin is None:
        if len(_heads) > 1_000:
            _heads.clear()
        line = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n"
        begin = f"{line}Content-Type: {_clean(content_type)}\r\nContent-Length: ".encode("latin-1", "replace")
        _heads[key] = begin
    # Answers that never have a body say nothing of one.
    head = begin.partition(b"Content-Type")[0] if status in (204, 304) else b"%b%d\r\n" % (begin, size)
    if headers:
        more = "".join(f"{name}: {_clean(value)}\r\n" for name, value in headers.items() if _TOKEN.fullmatch(name))
        head += more.encode("latin-1", "replace")
    return head


def _clean(text: str) -> str:
    """A header's value, of one line."""
    return text.replace("\r", " ").replace("\n", " ").replace("\0", " ")
