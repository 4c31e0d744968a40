"""A package index with files of many years: pages as PyPI gives them, or as a mirror does, and the files."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class OldIndex:
    """The index's files, each with its day."""

    folder: Path
    #: JSON as PyPI, else HTML as a mirror.
    is_json: bool = True
    url: str = ""
    #: Every page, instead of what is made of ``days``.
    body: str = ""
    days: dict[str, str] = field(default_factory=dict)
    #: What was asked for, with its Authorization header.
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: Path, day: str) -> None:
        """A file that came on that day."""
        self.days[path.name] = day

    def page(self, name: str) -> str:
        """The page of one package; '' where there is none."""
        if self.body:
            return self.body
        files = [one for one in sorted(self.days) if one.split("-")[0].replace("_", "-") == name]
        if not files:
            return ""
        if self.is_json:
            found = [
                {
                    "filename": one,
                    "url": f"{self.url}/files/{one}",
                    "hashes": {"sha256": hashlib.sha256((self.folder / one).read_bytes()).hexdigest()},
                    "upload-time": self.days[one] + "T12:00:00Z",
                }
                for one in files
            ]
            return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": found})
        return "".join(
            f'<a href="{self.url}/files/{one}" data-upload-time="{self.days[one]}T12:00:00Z">{one}</a>' for one in files
        )


@contextmanager
def serving(index: OldIndex) -> Iterator[OldIndex]:
    """The index on a loopback port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append((self.path, self.headers.get("Authorization", "")))
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "files":
                return self._answer((index.folder / name).read_bytes(), "application/octet-stream")
            text = index.page(name)
            kind = "application/vnd.pypi.simple.v1+json" if index.is_json else "text/html"
            return self._answer(text.encode(), kind)

        do_HEAD = do_GET

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
