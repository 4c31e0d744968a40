"""A service of a compiled model under wrk (Debian's package), beside a bare echo of the same bytes on uvloop."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measure import own_server, say

SECONDS = 3
ROUNDS = 3
#: Between two deployments, seconds.
READY_S = 2.0
#: The two models of the comparison: digits by a scaled logistic regression ...
DIGITS = """
import joblib, os
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
os.makedirs("outputs", exist_ok=True)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(*load_digits(return_X_y=True))
joblib.dump(model, "outputs/model.joblib")
"""
#: ... and a network of TensorFlow, 784-300-100-10 with float32.
NETWORK = """
import tensorflow as tf
dense = tf.keras.layers.Dense
layers = [tf.keras.Input((784,)), dense(300, "relu"), dense(100, "relu"), dense(10, "softmax")]
tf.keras.Sequential(layers).export("outputs/model", verbose=False)
"""
#: Answers every request with the same bytes, once it is whole.
ECHO = """
import asyncio, sys, uvloop
REPLY = b'HTTP/1.1 200 OK\\r\\nContent-Length: 19\\r\\nContent-Type: application/json\\r\\n\\r\\n{"predictions":[1]}'
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while True:
            end = self.data.find(b"\\r\\n\\r\\n")
            if end < 0:
                return
            head = self.data[:end].lower()
            size = int(head[head.find(b"content-length:") + 15:].split(b"\\r\\n")[0])
            if len(self.data) < end + 4 + size:
                return
            self.data = self.data[end + 4 + size:]
            self.transport.write(REPLY)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
uvloop.run(main())
"""
_POST = """
wrk.method = 'POST'
wrk.headers['Content-Type'] = 'application/json'
local file = io.open('{body}', 'rb')
wrk.body = file:read('*a')
file:close()
{more}
done = function(summary, latency)
  io.write(string.format('RESULT %d %d %d %d %d\\n', latency:percentile(50), latency:percentile(99), summary.requests,
    summary.duration, summary.errors.status + summary.errors.read + summary.errors.connect + summary.errors.timeout))
end
"""


def main() -> None:
    """Print the figures."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing; Debian: apt install wrk")
    from runyard.azureml.core import Workspace
    from tests.own_server import submit_here

    with tempfile.TemporaryDirectory() as name, own_server():
        folder = Path(name)
        workspace = Workspace.create("bench", exist_ok=True)
        digits, network = submit_here(workspace, folder, DIGITS), _train_network(workspace, folder)
        digits.wait_for_completion()
        network.wait_for_completion()
        models = {
            "digits": digits.register_model("digits", "outputs/model.joblib", model_framework="ScikitLearn"),
            "network": network.register_model("network", "outputs/model", model_framework="TensorFlow"),
        }
        rows = {
            "digits": {"data": [[float(one % 17) for one in range(64)]]},
            "network": {"instances": [[one / 1000 for one in range(784)]]},
        }
        for kind, goals in (("digits", (0.10, 12_000)), ("network", (0.12, 9_000))):
            body = folder / f"{kind}.json"
            body.write_text(json.dumps(rows[kind]))
            first_s = _deployed(workspace, kind, models[kind], body)
            again_s = [_deployed_again(workspace, kind, models[kind], body) for _ in range(ROUNDS)]
            if kind == "digits":
                took_s, beside = sorted(again_s)[ROUNDS // 2], f"first time {first_s:.2f} s"
                say("deploy -> first prediction, compiled before", took_s, "{:.2f} s", 0.3, beside)
            _measure(kind, workspace.webservices[kind], body, goals)
            workspace.webservices[kind].delete()


def _train_network(workspace: Any, folder: Path) -> Any:
    from runyard.azureml.core import Environment, Experiment, ScriptRunConfig

    source = folder / "network"
    source.mkdir()
    (source / "train.py").write_text(NETWORK)
    environment = Environment("tensorflow")
    environment.python.conda_dependencies.set_pip_requirements(["tensorflow-cpu"])
    return Experiment(workspace, "bench").submit(ScriptRunConfig(str(source), "train.py", environment=environment))


def _deployed(workspace: Any, name: str, model: Any, body: Path) -> float:
    from runyard.azureml.core import Model

    began = time.perf_counter()
    service = Model.deploy(workspace, name, [model])
    service.wait_for_deployment()
    service.run(body.read_bytes())
    return time.perf_counter() - began


def _deployed_again(workspace: Any, name: str, model: Any, body: Path) -> float:
    """With a supervisor ready, as a server has one while services are deployed."""
    workspace.webservices[name].delete()
    time.sleep(READY_S)
    return _deployed(workspace, name, model, body)


def _measure(kind: str, service: Any, body: Path, goals: tuple[float, int]) -> None:
    pids = _pids(service)
    say(f"{kind}: memory of the idle service", _pss_mib(pids), "{:.0f} MiB", 80)
    with _echo() as limit_uri:
        wrk(service.scoring_uri, body, 4, 1)
        one, many, limit_one, limit_many = [], [], [], []
        cpu_s = requests = 0.0
        for _ in range(ROUNDS):
            limit_one.append(wrk(limit_uri, body, 1))
            before = _cpu_s(pids)
            one.append(wrk(service.scoring_uri, body, 1))
            cpu_s, requests = cpu_s + _cpu_s(pids) - before, requests + one[-1][2]
            limit_many.append(wrk(limit_uri, body, 32))
            many.append(wrk(service.scoring_uri, body, 32))
    p50, rate = _middle(one, 0) / 1000, _middle(many, 2) / SECONDS
    echo = f"echo {_middle(limit_one, 0) / 1000:.3f} ms"
    say(f"{kind}: half of the answers within, 1 connection", p50, "{:.3f} ms", goals[0], echo)
    say(f"{kind}: CPU of an answer", 1000 * cpu_s / requests, "{:.3f} ms", 0.06 if kind == "digits" else None)
    echo = f"echo {_middle(limit_many, 2) / SECONDS:,.0f}"
    say(f"{kind}: answers a second, 32 connections", rate, "{:,.0f}", goals[1], echo, is_least=True)
    failed = sum(found[4] for found in [*one, *many])
    say(f"{kind}: failed", failed, "{:.0f}", 0)
    with _echo() as limit_uri:
        half, limit_half = [], []
        for _ in range(ROUNDS):
            limit_half.append(_half_load(limit_uri, body, rate))
            half.append(_half_load(service.scoring_uri, body, rate))
    tail, limit_tail = (sorted(one[1] / one[0] for one in found)[ROUNDS // 2] for found in (half, limit_half))
    beside = f"echo {limit_tail:.1f}; {_middle(half, 2) / SECONDS:,.0f} a second"
    say(f"{kind}: p99 over p50 at half load", tail, "{:.1f}", 3, beside)


def _half_load(uri: str, body: Path, rate: float) -> list[int]:
    """Callers that come independently of each other: each pauses for a random time before it asks again."""
    pause_ms = max(1, round(2 * 32 / rate * 1000))
    return wrk(uri, body, 32, SECONDS, f"function delay() return math.random(0, {2 * pause_ms}) end")


def wrk(uri: str, body: Path, connections: int, seconds: int = SECONDS, more: str = "") -> list[int]:
    """[p50 in µs, p99 in µs, requests, duration in µs, failures]."""
    script = body.with_suffix(".lua")
    script.write_text(_POST.format(body=body, more=more))
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script), uri]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    assert found is not None, said
    return [int(one) for one in found.groups()]


@contextmanager
def _echo() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", ECHO, str(port)]) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


def _middle(found: list[list[int]], place: int) -> float:
    return float(sorted(one[place] for one in found)[len(found) // 2])


def _pids(service: Any) -> list[int]:
    """All processes of the service."""
    from runyard.files.processes import parents

    folder = Path(os.environ["RUNYARD_HOME"]) / "services" / service._record.id
    (found,) = [json.loads((folder / "seen.json").read_text())["pid"]]
    below, pids = parents(), [found]
    for pid in pids:
        pids += [child for child, parent in below.items() if parent == pid]
    return pids


def _pss_mib(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _cpu_s(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
