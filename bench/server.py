"""The server: start, memory at rest, idle CPU, a ping; and the job's own import."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import own_server, say, seconds

IDLE_S = 10


def main() -> None:
    """Print the figures."""
    from runyard.client.local_server import connect, ensure_running
    from runyard.environments.kit import compile_kit, make_kit

    with own_server() as home:
        started = seconds(lambda: ensure_running(home))
        say("server, start to first answer", f"{started:.2f} s", "0.6 s")
        server = connect()
        pid = server.call("server_info").pid
        time.sleep(2)
        before = _cpu_s(pid)
        time.sleep(IDLE_S)
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
        say("memory at rest", f"{memory:.0f} MiB", "80 MiB")
        say("idle CPU", f"{(_cpu_s(pid) - before) / IDLE_S * 100:.2f} %", "0.5 %")
        pings = [seconds(lambda: server.call("ping")) for _ in range(500)]
        say("keep-alive ping, p50", f"{statistics.median(pings) * 1e3:.2f} ms", "1 ms")
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
        say("import azureml.core and Run.get_context() in a job", f"{statistics.median(took) * 1e3:.0f} ms", "30 ms")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
