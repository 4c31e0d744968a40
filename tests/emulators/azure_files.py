"""A stand-in for Azure Files: the documented REST operations that Azure's library sends for us, and nothing else.

Signatures are verified with the account's key. Whatever it does not know is answered by 400 and kept in ``unknown``,
which fails the test that caused it. Written from the service's documentation, and not compared with the service.
"""

import base64
import hashlib
import hmac
import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

#: Headers that any request may carry, and those of each operation.
ANY_HEADERS = {"x-ms-version", "x-ms-date", "x-ms-client-request-id", "x-ms-allow-trailing-dot"}
RENAME_HEADERS = {"x-ms-file-rename-source", "x-ms-file-rename-replace-if-exists", "x-ms-source-allow-trailing-dot"}
#: Query parameters of a shared access signature.
SAS = {"sv", "se", "st", "sp", "sr", "sig", "spr", "sip", "si"}
#: The most that one range may hold, bytes; most names in one answer of a listing, fewer than the service's 5,000.
RANGE_MAX, PAGE = 4 << 20, 3

_STATUS = {
    "ShareNotFound": 404, "ResourceNotFound": 404, "ParentNotFound": 404, "ResourceAlreadyExists": 409,
    "ShareAlreadyExists": 409, "ResourceTypeMismatch": 409, "AuthenticationFailed": 403, "InvalidRange": 416,
    "AuthorizationPermissionMismatch": 403, "InvalidResourceName": 400, "RequestBodyTooLarge": 413,
}  # fmt: skip


class Refused(Exception):
    """The service's word for what is wrong."""


@dataclass
class Entry:
    """A folder, or a file with its content."""

    name: str
    content: bytearray | None
    tag: str
    changed: float = field(default_factory=time.time)


@dataclass
class AzureFiles:
    """A running stand-in: its address, its account, and what it holds; paths are lower case, as names are compared."""

    endpoint: str = ""
    account_name: str = "files"
    account_key: str = base64.b64encode(b"the key of the stand-in's account").decode()
    shares: dict[str, dict[str, Entry]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    tags: Iterator[int] = field(default_factory=lambda: itertools.count(0x8DE000000000000))

    def entry(self, name: str, content: bytearray | None) -> Entry:
        return Entry(name, content, f'"{hex(next(self.tags)).upper().replace("X", "x")}"')

    def put(self, share: str, path: str, data: bytes) -> None:
        """A file as another client would leave it, with its folders."""
        parts = path.split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            self.shares[share].setdefault(folder.lower(), self.entry(parts[count - 1], None))
        self.shares[share][path.lower()] = self.entry(parts[-1], bytearray(data))


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: AzureFiles

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        operation = self._operation(parts.path, query)
        self.service.asked.append(operation)
        try:
            with self.service.lock:
                self._check_known(operation, query)
                self._check_signature(parts.path, query)
                self._check_permission(operation, query)
                do = getattr(self, "_" + operation)
                do(*self._place(parts.path), query, body)
        except Refused as error:
            self._refuse(str(error))

    do_GET = do_HEAD = do_PUT = do_DELETE = _any

    def log_message(self, *_: object) -> None:
        pass

    def _operation(self, path: str, query: dict[str, str]) -> str:
        is_share = "/" not in path.strip("/")
        kind, comp = query.get("restype", ""), query.get("comp", "")
        return {
            ("PUT", "share", ""): "create_share" if is_share else "",
            ("GET", "share", ""): "get_share" if is_share else "",
            ("PUT", "directory", ""): "create_folder",
            ("GET", "directory", ""): "get_folder",
            ("GET", "directory", "list"): "list_folder",
            ("PUT", "", ""): "create_file",
            ("PUT", "", "range"): "put_range",
            ("PUT", "", "rename"): "rename_file",
            ("GET", "", ""): "get_file",
            ("HEAD", "", ""): "get_file_facts",
            ("DELETE", "", ""): "delete_file",
        }.get((self.command, kind, comp), "")

    def _check_known(self, operation: str, query: dict[str, str]) -> None:
        extra = {
            "create_file": {"x-ms-type", "x-ms-content-length"},
            "put_range": {"x-ms-write", "x-ms-range"},
            "rename_file": RENAME_HEADERS,
            "get_file": {"x-ms-range"},
        }.get(operation, set())
        headers = {name.lower() for name in self.headers if name.lower().startswith("x-ms-")} - ANY_HEADERS - extra
        named = {"restype", "comp"} | SAS | ({"include", "marker", "prefix"} if operation == "list_folder" else set())
        if not operation or headers or set(query) - named or "x-ms-version" not in self.headers:
            self.service.unknown.append(f"{self.command} {self.path} {sorted(headers)}")
            raise Refused("UnsupportedHeader")

    def _check_signature(self, path: str, query: dict[str, str]) -> None:
        given = self.headers.get("Authorization", "")
        if not given:
            return self._check_sas(path, query)
        own = sorted((name.lower(), text) for name, text in self.headers.items() if name.lower().startswith("x-ms-"))
        length = self.headers.get("Content-Length", "")
        signed = [self.command, self.headers.get("Content-Encoding", ""), self.headers.get("Content-Language", "")]
        signed.append("" if length == "0" else length)
        for name in ("Content-MD5", "Content-Type", "Date", "If-Modified-Since", "If-Match", "If-None-Match"):
            signed.append(self.headers.get(name, ""))
        signed += [self.headers.get("If-Unmodified-Since", ""), self.headers.get("Range", "")]
        signed += [f"{name}:{text}" for name, text in own]
        signed.append(f"/{self.service.account_name}{path}")
        signed += [f"{name.lower()}:{text}" for name, text in sorted(query.items())]
        if given != f"SharedKey {self.service.account_name}:{self._sign(signed)}":
            raise Refused("AuthenticationFailed")

    def _check_sas(self, path: str, query: dict[str, str]) -> None:
        """A signature of one share, as the service's documentation has it."""
        share = path.strip("/").split("/")[0]
        signed = [query.get(name, "") for name in ("sp", "st", "se")]
        signed.append(f"/file/{self.service.account_name}/{unquote(share)}")
        signed += [query.get(name, "") for name in ("si", "sip", "spr", "sv")] + [""] * 5
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if query.get("sr") != "s" or query.get("sig") != self._sign(signed) or query.get("se", "") < now:
            raise Refused("AuthenticationFailed")

    def _sign(self, lines: list[str]) -> str:
        key = base64.b64decode(self.service.account_key)
        return base64.b64encode(hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()).decode()

    def _check_permission(self, operation: str, query: dict[str, str]) -> None:
        if "Authorization" in self.headers:
            return
        # A share's own facts are shown by no signature of the share.
        needed = {"list_folder": "l", "get_file": "r", "get_file_facts": "r", "get_folder": "r", "delete_file": "d"}
        letter = needed.get(operation, "-" if "share" in operation else "w")
        source = self.headers.get("x-ms-file-rename-source", "sig=" + query.get("sig", ""))
        if letter not in query.get("sp", "") or "sig=" not in source:
            raise Refused("AuthorizationPermissionMismatch")

    def _place(self, path: str) -> tuple[str, str]:
        share, _, below = unquote(path).strip("/").partition("/")
        parts = below.split("/") if below else []
        if any(re.search(r'["\\:|<>*?\x00-\x1f]', part) or part in ("", ".", "..") for part in parts):
            raise Refused("InvalidResourceName")
        return share, below

    def _entries(self, share: str) -> dict[str, Entry]:
        if share not in self.service.shares:
            raise Refused("ShareNotFound")
        return self.service.shares[share]

    def _find(self, share: str, path: str, is_folder: bool) -> Entry:
        entries = self._entries(share)
        if not path and is_folder:
            return self.service.entry("", None)
        self._check_parent(entries, path)
        found = entries.get(path.lower())
        if found is None or (found.content is None) != is_folder:
            raise Refused("ResourceNotFound")
        return found

    def _check_parent(self, entries: dict[str, Entry], path: str) -> None:
        parent = path.rpartition("/")[0].lower()
        if parent and (parent not in entries or entries[parent].content is not None):
            raise Refused("ParentNotFound")

    def _create_share(self, share: str, _: str, query: dict[str, str], body: bytes) -> None:
        if share in self.service.shares:
            raise Refused("ShareAlreadyExists")
        self.service.shares[share] = {}
        self._reply(201, self.service.entry(share, None))

    def _get_share(self, share: str, _: str, query: dict[str, str], body: bytes) -> None:
        self._entries(share)
        self._reply(200, self.service.entry(share, None), {"x-ms-share-quota": "5120"})

    def _create_folder(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        entries = self._entries(share)
        self._check_parent(entries, path)
        known = entries.get(path.lower())
        if known is not None or not path:
            is_file = known is not None and known.content is not None
            raise Refused("ResourceTypeMismatch" if is_file else "ResourceAlreadyExists")
        entries[path.lower()] = self.service.entry(path.rpartition("/")[2], None)
        self._reply(201, entries[path.lower()])

    def _get_folder(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        self._reply(200, self._find(share, path, True))

    def _list_folder(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        self._find(share, path, True)
        start = path.lower() + "/" if path else ""
        inside = {key[len(start) :]: one for key, one in self._entries(share).items() if key.startswith(start)}
        names = sorted(key for key in inside if "/" not in key)
        first = int(query.get("marker") or 0)
        told = "".join(self._described(inside[key]) for key in names[first : first + PAGE])
        more = str(first + PAGE) if first + PAGE < len(names) else ""
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="{self.service.endpoint}/" '
            f'ShareName="{escape(share)}" DirectoryPath=""><Entries>{told}</Entries><NextMarker>{more}</NextMarker>'
            "</EnumerationResults>"
        )
        self._send(200, {"Content-Type": "application/xml"}, text.encode())

    def _described(self, one: Entry) -> str:
        facts = f"<Last-Modified>{formatdate(one.changed, usegmt=True)}</Last-Modified><Etag>{escape(one.tag)}</Etag>"
        if one.content is None:
            return f"<Directory><Name>{escape(one.name)}</Name><Properties>{facts}</Properties></Directory>"
        size = f"<Content-Length>{len(one.content)}</Content-Length>"
        return f"<File><Name>{escape(one.name)}</Name><Properties>{size}{facts}</Properties></File>"

    def _create_file(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        entries = self._entries(share)
        self._check_parent(entries, path)
        known = entries.get(path.lower())
        if known is not None and known.content is None:
            raise Refused("ResourceTypeMismatch")
        size = int(self.headers["x-ms-content-length"])
        entries[path.lower()] = self.service.entry(path.rpartition("/")[2], bytearray(size))
        self._reply(201, entries[path.lower()])

    def _put_range(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        one = self._find(share, path, False)
        first, last = self._range(one)
        if last - first + 1 > RANGE_MAX:
            raise Refused("RequestBodyTooLarge")
        if self.headers["x-ms-write"] != "update" or last - first + 1 != len(body) or last >= len(one.content or b""):
            raise Refused("InvalidRange")
        fresh = self.service.entry(one.name, one.content)
        assert fresh.content is not None
        fresh.content[first : last + 1] = body
        self._entries(share)[path.lower()] = fresh
        self._reply(201, fresh)

    def _rename_file(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        from_share, source = self._place(urlsplit(self.headers["x-ms-file-rename-source"]).path)
        one = self._find(from_share, source, False)
        entries = self._entries(share)
        self._check_parent(entries, path)
        known = entries.get(path.lower())
        if known is not None and known.content is None:
            raise Refused("ResourceTypeMismatch")
        if known is not None and self.headers.get("x-ms-file-rename-replace-if-exists") != "true":
            raise Refused("ResourceAlreadyExists")
        del self._entries(from_share)[source.lower()]
        entries[path.lower()] = self.service.entry(path.rpartition("/")[2], one.content)
        self._reply(200, entries[path.lower()])

    def _get_file(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        one = self._find(share, path, False)
        data = bytes(one.content or b"")
        if "x-ms-range" not in self.headers:
            return self._reply(200, one, content=data)
        first, last = self._range(one)
        if first >= len(data):
            raise Refused("InvalidRange")
        last = min(last, len(data) - 1)
        self._reply(206, one, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])

    def _get_file_facts(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        one = self._find(share, path, False)
        self._reply(200, one, {"Content-Length": str(len(one.content or b"")), "x-ms-type": "File"})

    def _delete_file(self, share: str, path: str, query: dict[str, str], body: bytes) -> None:
        one = self._find(share, path, False)
        del self._entries(share)[path.lower()]
        self._reply(202, one)

    def _range(self, one: Entry) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["x-ms-range"])
        if found is None or int(found[2]) < int(found[1]):
            raise Refused("InvalidRange")
        return int(found[1]), int(found[2])

    def _reply(self, status: int, one: Entry, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        facts = {
            "Content-Type": "application/octet-stream",
            "ETag": one.tag,
            "Last-Modified": formatdate(one.changed, usegmt=True),
        }
        self._send(status, {**facts, **(headers or {})}, content)

    def _refuse(self, code: str) -> None:
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code} it is.</Message></Error>'
        )
        self._send(_STATUS.get(code, 400), {"x-ms-error-code": code, "Content-Type": "application/xml"}, text.encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        known = {"Content-Length": str(len(content)), "x-ms-request-id": "1", **headers}
        known["x-ms-version"] = self.headers.get("x-ms-version", "")
        self.send_response(status)
        for name, text in known.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def start_azure_files() -> Iterator[AzureFiles]:
    """The stand-in, on a port of its own; a request that it does not know fails whoever started it."""
    service = AzureFiles()
    handler = type("Answer", (_Answer,), {"service": service})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        service.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield service
        server.shutdown()
    assert service.unknown == [], "the stand-in for Azure Files was asked for what it does not know"
