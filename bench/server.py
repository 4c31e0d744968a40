"""The server: start, memory at rest, idle CPU, a ping; and the job's own import."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure import own_server, say, seconds

IDLE_S = 10
QUEUED = 1_000


def main() -> None:
    """Print the figures."""
    from runyard.client.local_server import connect, ensure_running
    from runyard.environments.kit import compile_kit, make_kit

    with own_server() as home:
        started = seconds(lambda: ensure_running(home))
        say("server, start to first answer", started, "{:.2f} s", 0.6)
        server = connect()
        pid = server.call("server_info").pid
        time.sleep(2)
        before = _cpu_s(pid)
        time.sleep(IDLE_S)
        say("memory at rest", _mib(pid, "VmRSS"), "{:.0f} MiB", 80)
        say("idle CPU", (_cpu_s(pid) - before) / IDLE_S * 100, "{:.2f} %", 0.5)
        pings = [seconds(lambda: server.call("ping")) for _ in range(500)]
        say("keep-alive ping, p50", statistics.median(pings) * 1e3, "{:.2f} ms", 1)
        _queue(server, pid)
    with tempfile.TemporaryDirectory() as folder:
        kit = make_kit(folder)
        compile_kit(kit, sys.executable)
        code = (
            "import time; began = time.perf_counter()\n"
            "from azureml.core import Run\nRun.get_context()\nprint(time.perf_counter() - began)"
        )
        job = {"PYTHONPATH": kit.folder, "AZUREML_RUN_ID": "r", "AZUREML_RUN_TOKEN": "t", "PATH": os.environ["PATH"]}
        command = [sys.executable, "-S", "-c", code]
        took = [float(subprocess.run(command, env=job, capture_output=True, check=True).stdout) for _ in range(11)]
        say("import azureml.core and Run.get_context() in a job", statistics.median(took) * 1e3, "{:.0f} ms", 30)


def _queue(server: Any, pid: int) -> None:
    """What many runs cost that wait behind one."""
    from runyard.protocol.compute import ClusterSpec
    from runyard.protocol.environments import EnvironmentSpec, PythonSpec
    from runyard.protocol.runs import RunSpec, RunStatus
    from runyard.protocol.workspaces import WorkspaceSpec

    here = EnvironmentSpec(python=PythonSpec(user_managed=True, interpreter_path=sys.executable))
    server.call("create_workspace", WorkspaceSpec("bench"))
    server.call("create_cluster", ClusterSpec("one", max_nodes=1), workspace="bench")

    def submit(name: str, *command: str) -> None:
        spec = RunSpec(name, "queue", command=command, target="one", environment=here)
        server.call("submit_run", spec, workspace="bench")

    def count() -> int:
        page = server.call("list_runs", query={"status": RunStatus.QUEUED}, workspace="bench")
        return len(page.runs)

    submit("first", "sleep", "1000")
    while server.call("get_run", workspace="bench", run_id="first").status != RunStatus.RUNNING:
        time.sleep(0.05)
    took = seconds(lambda: [submit(f"queued_{number}", "true") for number in range(QUEUED)])
    say(f"{QUEUED} requests that submit a run", QUEUED / took, "{:.0f} a second")
    while count() < QUEUED:
        time.sleep(0.2)
    before = _cpu_s(pid)
    time.sleep(IDLE_S)
    busy = (_cpu_s(pid) - before) / IDLE_S * 100
    say(f"CPU with {QUEUED} runs queued", busy, "{:.1f} %")
    beside = f"at most {_mib(pid, 'VmHWM'):.0f} MiB"
    say(f"memory with {QUEUED} runs queued", _mib(pid, "VmRSS"), "{:.0f} MiB", 300, beside)
    for number in range(QUEUED):
        server.call("cancel_run", workspace="bench", run_id=f"queued_{number}")
    server.call("cancel_run", workspace="bench", run_id="first")
    while server.call("get_run", workspace="bench", run_id="first").status != RunStatus.CANCELED:
        time.sleep(0.1)


def _mib(pid: int, name: str) -> float:
    """A line of the process's status, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split(name + ":")[1].split()[0]) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
