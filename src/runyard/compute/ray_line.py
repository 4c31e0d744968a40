"""The process that speaks with a Ray cluster (compute/ray_bridge.py), as its server holds it: a question, an answer."""

import json
import os
import select
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Callable, Dict, NamedTuple, Optional

from runyard.compute.ray_head import LOOPBACK, find_python, last_words
from runyard.compute.remote import EngineAwayError
from runyard.errors import ServiceException

#: Joining the cluster takes a few seconds, and an answer of a busy head may; then it is away.
JOIN_S, ANSWER_S = 40.0, 20.0


class Place(NamedTuple):
    """Where a cluster is."""

    address: str
    #: The file with what whoever would speak with it must show; '': as Ray's own variables say.
    token_file: str = ""
    #: Tells a head of the server's own from another one that was there before; '': the cluster is somebody's.
    serial: str = ""


class RayLine:
    """One cluster; its process is made anew when it is gone or silent."""

    def __init__(self, find: Callable[[], Place], mark: str) -> None:
        """``find``: where the cluster is, asked each time; it may start it. EngineAwayError: nowhere now."""
        self._find = find
        self._mark = mark
        self._place = Place("")
        self._lock = threading.Lock()
        self._is_closed = False
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._read = b""

    def ask(self, do: str, **details: Any) -> Any:
        """What the bridge answers; EngineAwayError where Ray does not, ServiceException where it refuses."""
        with self._lock:
            try:
                process = self._joined()
                assert process.stdin is not None
                process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
                process.stdin.flush()
                answer = self._answer(process, ANSWER_S)
            except OSError as error:
                self._drop()
                raise EngineAwayError(f"The Ray cluster {self._place.address} does not answer: {error}.") from None
        if not answer["ok"]:
            raise ServiceException(f"Ray refused: {str(answer['error'])[:500]}.")
        return answer.get("value")

    def close(self) -> None:
        """End the process, for good."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _joined(self) -> "subprocess.Popen[bytes]":
        if self._is_closed:
            raise EngineAwayError("This server speaks with it no more.")
        place = self._find()
        if self._process is not None and self._process.poll() is None and place == self._place:
            return self._process
        self._drop()
        self._place = place
        python = find_python()
        # A pipe that nobody reads would hold the process up once it is full.
        with tempfile.TemporaryFile() as said:
            return self._join(python, said)

    def _join(self, python: str, said: IO[bytes]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            # As text: a script's own folder would stand first where Python looks for "ray".
            [
                python,
                "-c",
                Path(__file__).with_name("ray_bridge.py").read_text(encoding="utf-8"),
                self._place.address,
                self._mark,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=self._variables(),
            start_new_session=True,
            cwd="/",
        )
        self._process, self._read = process, b""
        try:
            answer = self._answer(process, JOIN_S)
        except OSError:
            self._drop()
            said.seek(0)
            why = last_words(said.read().decode("utf-8", "replace"))
            raise EngineAwayError(f"The Ray cluster {self._place.address} cannot be joined: {why}.") from None
        if not answer["ok"]:
            raise EngineAwayError(str(answer["error"]))
        return process

    def _answer(self, process: "subprocess.Popen[bytes]", limit_s: float) -> Dict[str, Any]:
        """The next line; TimeoutError or EOFError (as OSError) where none comes."""
        assert process.stdout is not None
        while b"\n" not in self._read:
            # select() knows no descriptor beyond 1023, which a busy server reaches.
            poller = select.poll()
            poller.register(process.stdout, select.POLLIN)
            if not poller.poll(limit_s * 1000):
                raise TimeoutError(f"no answer for {limit_s:.0f} s")
            found = os.read(process.stdout.fileno(), 1 << 16)
            if not found:
                raise ConnectionResetError("its process has ended")
            self._read += found
        line, _, self._read = self._read.partition(b"\n")
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def _variables(self) -> Dict[str, str]:
        """Of the server's own environment: what Ray is told, and no token of Runyard."""
        names = ("PATH", "HOME", "USER", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
        kept = {name: text for name, text in os.environ.items() if name in names or name.startswith("RAY_")}
        if self._place.token_file:
            kept.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=self._place.token_file)
        if self._place.serial:
            kept.update(LOOPBACK)
        # Otherwise joining a cluster that is away takes minutes.
        return {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_NUM_REDIS_GET_RETRIES": "1", **kept}

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
