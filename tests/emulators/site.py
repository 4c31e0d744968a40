"""A folder as a web site."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the test's own output matters."""


@contextmanager
def serving_folder(root: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The address below which the folder's files lie; ``host`` is where others may ask for them too."""
    with http.server.ThreadingHTTPServer((host, 0), partial(_Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
