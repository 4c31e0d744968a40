"""A Ray of the server's own, on its host: begun for one target, found by the next server, ended with its target.

``ray stop`` would end every Ray of this host: processes are found by a variable that Ray's carry, and no run's.
"""

import fcntl
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Set, Tuple

from runyard.compute.remote import EngineAwayError
from runyard.files.processes import identity, is_alive, parents, with_variable

#: The interpreter that has Ray; '': the server's own (pip install "runyard[ray]").
PYTHON_VARIABLE = "RUNYARD_RAY_PYTHON"
#: What stands for an address where the server starts the head; what it is called then, and how many CPUs it offers.
OWN, NAME, CPUS = "local", "head", "head_cpus"
#: Carried by each process of a head: its folder. What a run starts loses all that begins so.
MARK = "RAY_RUNYARD_HEAD"
#: Where it listens, and nowhere else: its nodes are this host.
HOST = "127.0.0.1"
#: What the head and whoever speaks with it are told. Otherwise Ray takes this host's address to the outside for
#: 127.0.0.1; and with any other address its parts listen on every one, some of them without asking for the token.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
#: How long a head may take to start, and its processes to be gone, seconds.
START_S, END_S = 60.0, 10.0
#: Ray's sockets lie in this folder or below, and their paths have 107 characters at the most.
PATH_MAX = 40
#: Objects of Ray are not used; this is about the least that it takes, bytes.
STORE_BYTES = 80_000_000

#: Of the server's own environment, what Ray gets.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_")


class RayHead:
    """The head of one target; its folder outlives servers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def token_file(self) -> Path:
        """What whoever would speak with it must show."""
        return self._folder / "token"

    def begin(self, settings: Mapping[str, str]) -> Tuple[str, str]:
        """Its address, and what tells it from an earlier one; it is started where it does not live.

        EngineAwayError where that fails. May take a minute; some microseconds where it lives.
        """
        with self._alone():
            if not self._is_whole():
                self._end()
                self._start(settings)
            found = self._read()
            return str(found["address"]), json.dumps(found["parts"])

    def end(self) -> None:
        """End its processes and remove what it has made; what runs have left goes on. Absent: fine."""
        if self._folder.is_dir():
            with self._alone():
                self._end()
            shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> Set[int]:
        """Its own processes: those that carry its mark, and those below them, which may hide theirs."""
        found = set(with_variable(MARK, str(self._folder)))
        below, level = parents(), set(found)
        while level:
            level = {pid for pid, parent in below.items() if parent in level} - found
            found |= level
        return found

    def _is_whole(self) -> bool:
        parts = self._read().get("parts") or []
        return bool(parts) and all(is_alive(part) for part in parts)

    def _start(self, settings: Mapping[str, str]) -> None:
        token = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(token, "w") as file:
            file.write(secrets.token_hex(32))
        sessions = str(self._folder / "s")
        if len(sessions) > PATH_MAX:
            sessions = tempfile.mkdtemp(prefix="runyard-ray-", dir="/tmp")
        self._write({"sessions": sessions})
        ports = _free_ports(3)
        command = start_command(find_python(), sessions, ports, settings)
        try:
            done = subprocess.run(
                command,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=START_S,
                start_new_session=True,
                cwd="/",
            )
            said, is_up = done.stdout.decode("utf-8", "replace"), done.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, is_up = str(error), False
        if not is_up:
            self._end()
            raise EngineAwayError(f"Ray cannot be started on this host: {last_words(said)}.")
        # Without either, drivers hang: they hear of no end of what is on their own host.
        parts = [identity(pid) for pid in sorted(self.processes()) if _program(pid) in ("gcs_server", "raylet")]
        self._write({"sessions": sessions, "address": f"{HOST}:{ports[0]}", "parts": parts})

    def _end(self) -> None:
        gives_up_at = time.monotonic() + END_S
        found = self.processes()
        while found and time.monotonic() < gives_up_at:
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
            found = self.processes()
        sessions = self._read().get("sessions")
        if sessions:
            shutil.rmtree(sessions, ignore_errors=True)
        self._state.unlink(missing_ok=True)

    def _variables(self) -> Dict[str, str]:
        mine = {name: text for name, text in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
        return {
            **mine,
            MARK: str(self._folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            **LOOPBACK,
            # Runs are no workers of Ray: it would end their actors for what others use.
            "RAY_memory_monitor_refresh_ms": "0",
        }

    @property
    def _state(self) -> Path:
        return self._folder / "head.json"

    def _read(self) -> Dict[str, Any]:
        try:
            found = json.loads(self._state.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, state: Dict[str, Any]) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self._state)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread or server starts or ends it meanwhile."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def start_command(python: str, sessions: str, ports: List[int], settings: Mapping[str, str]) -> List[str]:
    """What starts a head that offers what the runs of the target ask for."""
    words = [python, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address", HOST]
    # Ports of its own: Ray's usual ones belong to whoever uses Ray on this host.
    for name, port in zip(("--port", "--dashboard-port", "--ray-client-server-port"), ports, strict=True):
        words += [name, str(port)]
    for name in ("--min-worker-port", "--max-worker-port", "--dashboard-agent-listen-port", "--metrics-export-port"):
        words += [name, "0"]
    words += ["--include-dashboard", "false", "--include-log-monitor", "false", "--temp-dir", sessions]
    words += ["--object-store-memory", str(STORE_BYTES), "--num-cpus", settings[CPUS]]
    if not float(settings.get("gpus") or 0):
        words += ["--num-gpus", "0"]
    resources = json.loads(settings.get("resources") or "{}")
    if resources:
        # As much as nobody's runs can use up: the number of nodes is counted by the target.
        words += ["--resources", json.dumps({name: math.ceil(number) * 1_000 for name, number in resources.items()})]
    return words


def find_python() -> str:
    """The interpreter that has Ray."""
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


def last_words(text: str) -> str:
    """The last line that a program of Ray's has printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "it says no reason").rstrip(".")[-400:]


def _free_ports(count: int) -> List[int]:
    found = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in found]
    for one in found:
        one.close()
    return ports


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.path.basename(file.read().split(b"\0")[0].decode("utf-8", "replace"))
    except OSError:
        return ""
