"""A web server of one file that holds its answers back until a test lets them go."""

import http.server
import itertools
import threading
from typing import Any


class SlowData:
    """The first ``free`` requests are answered at once; ``asked`` is set when one waits."""

    def __init__(self, address: str = "127.0.0.1", free: int = 0) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        asked, may_answer, numbers = self.asked, self.may_answer, itertools.count()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if next(numbers) >= free:
                    asked.set()
                    may_answer.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"data")

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_address[1]}/data.csv"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
