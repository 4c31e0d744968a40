"""Downloads: checked addresses, whole files, clear failures."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.errors import AzureMLException, UserErrorException
from runyard.files.fetch import FetchLimits, fetch, is_private

PUBLIC = "93.184.216.34"


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path in ("/file", "/a%20file?name=%C3%A9%20b&c=1"):
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"data")
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/a file?name=é b&c=1", "/a%20file?name=%C3%A9%20b&c=1"])
def test_blanks_and_letters_of_an_address_are_quoted_once(site: str, tmp_path: Path, path: str) -> None:
    fetch(site + path, str(tmp_path / "file"), allow_private=True)
    assert (tmp_path / "file").read_bytes() == b"data"


def test_file_is_fetched_whole_through_a_redirect(site: str, tmp_path: Path) -> None:
    found = fetch(site + "/moved", str(tmp_path / "file"), allow_private=True)
    assert (tmp_path / "file").read_bytes() == b"data"
    assert (found.size_bytes, found.etag) == (4, '"1"')


def test_private_address_is_refused_unless_it_is_allowed(site: str, tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="RUNYARD_ALLOW_PRIVATE_URLS"):
        fetch(site + "/file", str(tmp_path / "file"), allow_private=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0"]
)
def test_private_addresses_are_known(address: str) -> None:
    assert is_private(address)
    assert not is_private(PUBLIC)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/short", "broke off|ended after"), ("/loop", "redirects more than"), ("/absent", "answered 404")],
)
def test_failed_download_leaves_nothing_and_says_why(site: str, tmp_path: Path, path: str, sentence: str) -> None:
    with pytest.raises(AzureMLException, match=sentence):
        fetch(site + path, str(tmp_path / "file"), allow_private=True)
    assert list(tmp_path.iterdir()) == []


def test_file_beyond_the_limit_is_refused(site: str, tmp_path: Path) -> None:
    with pytest.raises(AzureMLException, match="limit is 3"):
        fetch(site + "/file", str(tmp_path / "file"), allow_private=True, limits=FetchLimits(max_bytes=3))


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "http://", "gopher://x"])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserErrorException, match="is not a http"):
        fetch(url, str(tmp_path / "file"), allow_private=True)


def test_name_is_looked_up_once_and_that_address_is_judged(site: str, tmp_path: Path) -> None:
    port = int(site.rsplit(":", 1)[1])
    answers = iter([["127.0.0.1"], [PUBLIC]])
    found = fetch(
        f"http://somewhere.test:{port}/file", str(tmp_path / "f"), allow_private=True, resolver=lambda *_: next(answers)
    )
    assert found.size_bytes == 4
    with pytest.raises(UserErrorException, match="private address 127"):
        fetch(f"http://somewhere.test:{port}/file", str(tmp_path / "g"), False, resolver=lambda *_: ["127.0.0.1"])


def test_next_address_is_tried_where_one_does_not_answer(site: str, tmp_path: Path) -> None:
    port = int(site.rsplit(":", 1)[1])
    url = f"http://somewhere.test:{port}/file"
    assert fetch(url, str(tmp_path / "f"), True, resolver=lambda *_: ["::1", "127.0.0.2", "127.0.0.1"]).size_bytes == 4
    with pytest.raises(AzureMLException, match="cannot be reached"):
        fetch(url, str(tmp_path / "g"), True, resolver=lambda *_: ["::1", "127.0.0.2"])


def test_each_address_of_a_host_is_judged(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        asked.append(address[0])
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("runyard.files.fetch.socket.create_connection", connect)
    with pytest.raises(AzureMLException, match="cannot be reached"):
        fetch("http://somewhere.test/", str(tmp_path / "f"), False, resolver=lambda *_: [PUBLIC, "127.0.0.1", "::1"])
    assert asked == [PUBLIC]
