"""Downloads that break off: taken up where they stopped, and only if the file is still the same."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.errors import AzureMLException
from runyard.files.fetch import Fetched, fetch
from tests.emulators.fault_proxy import DOWN, FaultProxy, start_fault_proxy

BODY = os.urandom(6 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()


class _Site(http.server.BaseHTTPRequestHandler):
    """Serves one file, by ranges; the first part of the path says how it names the file's state."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: _Server = self.server  # type: ignore[assignment]
        kind = self.path.strip("/").split("/")[0]
        body = site.bodies[min(len(site.asked), len(site.bodies) - 1)]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        site.asked.append(self.headers.get("Range"))
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].split("=")[1].rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if kind != "nameless":
            self.send_header("ETag", "W/" + tag if kind == "weak" else tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    bodies: list[bytes]
    asked: list[str | None]


@pytest.fixture
def site() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Site) as server:
        server.bodies, server.asked = [BODY], []
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(site: _Server) -> Iterator[FaultProxy]:
    with start_fault_proxy(f"http://127.0.0.1:{site.server_address[1]}") as found:
        yield found


@pytest.mark.parametrize("politely", [True, False])
def test_download_goes_on_where_it_broke_off(site: _Server, proxy: FaultProxy, tmp_path: Path, politely: bool) -> None:
    proxy.cut_after(2 << 20, DOWN, times=2, politely=politely)
    found = fetch(proxy.url + "/tagged", str(tmp_path / "file"), allow_private=True)
    assert found is not None
    assert found.sha256 == SHA256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert len(site.asked) == 3
    starts = [int(str(one).split("=")[1].rstrip("-")) for one in site.asked[1:]]
    assert 0 < starts[0] < starts[1] < len(BODY), "each goes on behind the one before"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["weak", "nameless"])
def test_file_without_a_name_of_its_state_is_asked_for_anew(
    site: _Server, proxy: FaultProxy, tmp_path: Path, kind: str
) -> None:
    proxy.cut_after(2 << 20, DOWN, times=1)
    found = fetch(f"{proxy.url}/{kind}", str(tmp_path / "file"), allow_private=True)
    assert found is not None
    assert found.sha256 == SHA256
    assert site.asked == [None, None]


def test_file_that_changed_while_it_was_broken_off_is_whole_and_of_one_state(
    site: _Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    site.bodies = [BODY, b"other" * 100_000]
    proxy.cut_after(2 << 20, DOWN, times=1)
    fetch(proxy.url + "/tagged", str(tmp_path / "file"), allow_private=True)
    assert (tmp_path / "file").read_bytes() == site.bodies[1]


def test_download_that_breaks_off_again_and_again_ends_with_a_sentence_and_no_file(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard.files.fetch.RETRY_LAST_S", 0.05)
    proxy.cut_after(0, DOWN)
    with pytest.raises(AzureMLException, match="did not answer"):
        fetch(proxy.url + "/tagged", str(tmp_path / "file"), allow_private=True)
    assert os.listdir(tmp_path) == []


def test_file_that_is_known_still_does_not_come_again(site: _Server, proxy: FaultProxy, tmp_path: Path) -> None:
    known = Fetched(len(BODY), f'"{hashlib.md5(BODY).hexdigest()}"', SHA256)
    assert fetch(proxy.url + "/tagged", str(tmp_path / "file"), allow_private=True, known=known) is None
    site.bodies = [b"new"]
    found = fetch(proxy.url + "/tagged", str(tmp_path / "file"), allow_private=True, known=known)
    assert found is not None
    assert (tmp_path / "file").read_bytes() == b"new"
