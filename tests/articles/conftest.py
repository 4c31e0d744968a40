"""A stage for the articles: digits on a web server of this machine, the scripts, the config file, the conda file."""

import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from examples.digits import write_digits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four idx files, as the quickstart makes them; a folder of data beside the project may have those of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    beside = ROOT.parent / "shared" / "data" / "mnist"
    with pytest.MonkeyPatch.context() as patch:
        if "QUICKSTART_MNIST" not in os.environ and beside.is_dir():
            patch.setenv("QUICKSTART_MNIST", str(beside))
        write_digits(folder)
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the test's own output matters."""


@pytest.fixture(scope="session")
def mnist_url(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address below which the four files lie, as they lay at the article's."""
    root = tmp_path_factory.mktemp("web")
    (root / "exdb").mkdir()
    os.symlink(digits, root / "exdb" / "mnist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/exdb/mnist"
        server.shutdown()
