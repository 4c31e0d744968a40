"""Runs on a Ray cluster: a placement group an attempt, a runner a node; Ray's autoscaler brings and takes the nodes.

This server's own queue orders the runs; only admitted ones reach Ray, which places them and never holds the truth:
a head that dies takes no run with it. A process of its own speaks with Ray (compute/ray_bridge.py), so that the server
neither imports Ray nor waits for it.
"""

import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, Iterable, List, Mapping, Optional, Sequence

from runyard.compute.remote import EngineAwayError, Reach, node_program, read_fence_s
from runyard.compute.watch import Watch
from runyard.errors import ComputeTargetException, ServiceException
from runyard.protocol.plan import LaunchPlan, Observation

#: The interpreter that has Ray; '': the server's own (pip install "runyard[ray]").
PYTHON_VARIABLE = "RUNYARD_RAY_PYTHON"
#: Joining the cluster takes a few seconds, and an answer of a busy head may; then it is away.
JOIN_S, ANSWER_S = 40.0, 20.0

#: How often a signal is repeated at the most, seconds; the second one to kill an attempt ends all of it.
TOLD_S = 10.0

#: Only these: Ray would take "local" or "auto" for a cluster that it starts or finds on this host.
_ADDRESS = re.compile(r"^(ray://)?[A-Za-z0-9._\[\]:-]+:\d{1,5}$")
#: What a cluster can be attached with.
SETTINGS = ("address", "cpus", "gpus", "memory_gib", "resources", "token_file", "node_folder")


class RayCompute:
    """One attached cluster."""

    #: A head that was started again knows nothing of what its nodes carry out.
    fence_s = read_fence_s()

    def __init__(self, settings: Mapping[str, str], reach: Reach) -> None:
        self._settings = dict(settings)
        self._reach = reach
        # Two targets of one cluster are two of these: neither may take the other's groups for its own leftovers.
        told = hashlib.sha256(json.dumps(sorted(settings.items())).encode()).hexdigest()[:8]
        self._bridge = _Bridge(settings, f"{reach.mark}-{told}")
        self._watch = Watch("ray", self._look)
        #: When each key was told to stop, and its runner killed, for the last time.
        self._stopped: Dict[str, float] = {}
        self._killed: Dict[str, float] = {}

    def prepare(self) -> None:
        """The cluster is joined when it is first asked."""

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        folder = self._settings.get("node_folder", "")
        program = node_program(self._reach, plan, secret, "RUNYARD_NODE_NUMBER", folder)
        log = f"/tmp/runyard-ray-{key.rpartition('/')[0]}.log"
        asked = {"key": key, "program": program, "nodes": plan.node_count, "log": log}
        self._watch.begin(key, lambda: self._bridge.ask("start", bundle=bundle_of(self._settings), **asked))

    def recover(self, key: str) -> bool:
        """Each node has done what can be done; what is gone from Ray is gone."""
        self._watch.do(f"remove {key}", lambda: self._bridge.ask("remove", key=key))
        return False

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        asked = list(keys)
        for told in (self._stopped, self._killed):
            for key in told.keys() - set(asked):
                told.pop(key, None)
        return self._watch.observe(asked)

    def stop(self, key: str) -> None:
        self._watch.forget(key)
        if self._is_due(self._stopped, key):
            self._watch.do(f"stop {key}", lambda: self._bridge.ask("signal", key=key, number=int(signal.SIGTERM)))

    def kill(self, key: str) -> None:
        """First its runner, which its supervisor replaces to complete the record; where that changes nothing, all."""
        was_killed = key in self._killed
        if not self._is_due(self._killed, key):
            return
        if was_killed:
            self._watch.do(f"kill {key}", lambda: self._bridge.ask("end", key=key))
        else:
            self._watch.do(f"kill {key}", lambda: self._bridge.ask("signal", key=key, number=int(signal.SIGUSR1)))

    def tidy(self, keys: Iterable[str], before: float) -> None:
        """The nodes do that themselves; groups that nobody asks for any more go with the next look."""

    def close(self) -> None:
        self._watch.close()
        self._bridge.close()

    def _is_due(self, told: Dict[str, float], key: str) -> bool:
        """Control asks each second: an engine that is away would hear all of it when it is back."""
        now = time.monotonic()
        if now - told.get(key, -TOLD_S) < TOLD_S:
            return False
        told[key] = now
        return True

    def _look(self, keys: Sequence[str]) -> Dict[str, Observation]:
        found: Dict[str, List[str]] = self._bridge.ask("look", keys=list(keys))
        return {key: Observation(key, state, detail) for key, (state, detail) in found.items()}


def bundle_of(settings: Mapping[str, str]) -> Dict[str, float]:
    """What a node of a run needs, in Ray's own names."""
    found = {"CPU": float(settings.get("cpus") or 1)}
    if float(settings.get("gpus") or 0):
        found["GPU"] = float(settings["gpus"])
    if settings.get("memory_gib"):
        found["memory"] = float(settings["memory_gib"]) * (1 << 30)
    for name, number in json.loads(settings.get("resources") or "{}").items():
        found[str(name)] = float(number)
    return found


def check_settings(settings: Mapping[str, str]) -> None:
    """ComputeTargetException for a setting that is none, and where no cluster answers."""
    for name in settings:
        if name not in SETTINGS:
            raise ComputeTargetException(
                "A Ray target has no setting {!r}; there are: {}.".format(name[:80], ", ".join(SETTINGS))
            )
    if not _ADDRESS.match(settings.get("address", "")):
        raise ComputeTargetException("A Ray target needs the cluster's address, as 'host:6379' or 'ray://host:10001'.")
    try:
        bundle_of(settings)
    except (ValueError, AttributeError, TypeError):
        raise ComputeTargetException(
            'cpus, gpus and memory_gib are numbers, and resources is JSON, as {"big": 1}.'
        ) from None
    bridge = _Bridge(settings, "check")
    try:
        bridge.ask("look", keys=[])
    except ServiceException as error:
        raise ComputeTargetException(str(error)) from None
    finally:
        bridge.close()


class _Bridge:
    """The process that speaks with Ray; made anew when it is gone or silent."""

    def __init__(self, settings: Mapping[str, str], mark: str) -> None:
        self._address = settings.get("address", "")
        self._names = (self._address, mark)
        self._token_file = settings.get("token_file", "")
        self._lock = threading.Lock()
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
                raise EngineAwayError(f"The Ray cluster {self._address} does not answer: {error}.") from None
        if not answer["ok"]:
            raise ServiceException(f"Ray refused: {str(answer['error'])[:500]}.")
        return answer.get("value")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._drop()

    def _joined(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._drop()
        python = os.environ.get(PYTHON_VARIABLE) or sys.executable
        # A pipe that nobody reads would hold the process up once it is full.
        with tempfile.TemporaryFile() as said:
            return self._join(python, said)

    def _join(self, python: str, said: IO[bytes]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            # As text: a script's own folder would stand first where Python looks for "ray".
            [python, "-c", Path(__file__).with_name("ray_bridge.py").read_text(encoding="utf-8"), *self._names],
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
            why = _last(said.read().decode("utf-8", "replace"))
            raise EngineAwayError(f"The Ray cluster {self._address} cannot be joined: {why}.") from None
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
        if self._token_file:
            kept.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=self._token_file)
        # Otherwise joining a cluster that is away takes minutes.
        return {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_NUM_REDIS_GET_RETRIES": "1", **kept}

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "it says no reason").rstrip(".")[-400:]
