"""Submitting: to the script's first line, to the end, many at once, a runner's memory; beside a bare subprocess."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import own_server, say

SCRIPT = "import os, time\nopen(os.environ['OUT'], 'a').write('%f\\n' % time.time())\n"
WAITING = "import os, time\nopen(os.environ['OUT'] + '.waits', 'w').close()\ntime.sleep(1000)\n"
RUNS = 20
MANY = 200


def main() -> None:
    """Print the figures."""
    with own_server() as home, tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as outside:
        with open(os.path.join(folder, "t.py"), "w") as file:
            file.write(SCRIPT)
        with open(os.path.join(folder, "wait.py"), "w") as file:
            file.write(WAITING)
        # Not in the home, of which a confined script sees nothing.
        _measure(folder, home, os.path.join(outside, "out.txt"))


def _measure(folder: str, home: Path, out: str) -> None:
    from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace

    experiment = Experiment(Workspace.create("bench", exist_ok=True), "submit")
    environment = Environment("bench")
    environment.python.user_managed_dependencies = True

    def config(script: str = "t.py") -> ScriptRunConfig:
        found = ScriptRunConfig(folder, script, environment=environment)
        found.run_config.environment_variables = {"OUT": out}
        return found

    def last_line() -> float:
        with open(out) as file:
            return float(file.read().split()[-1])

    first, done, bare, bare_done = [], [], [], []
    for number in range(RUNS + 3):
        began = time.time()
        subprocess.run([sys.executable, os.path.join(folder, "t.py")], env={**os.environ, "OUT": out}, check=True)
        bare_done.append(time.time() - began)
        bare.append(last_line() - began)
        began = time.time()
        run = experiment.submit(config())
        run.wait_for_completion()
        if number >= 3:
            done.append(time.time() - began)
            first.append(last_line() - began)
    line, base = statistics.median(first) * 1e3, statistics.median(bare) * 1e3
    end, base_end = statistics.median(done) * 1e3, statistics.median(bare_done) * 1e3
    say("submit -> first line of the script", line, "{:.0f} ms", base + 25, f"bare subprocess {base:.0f} ms")
    say("submit -> wait_for_completion returns", end, "{:.0f} ms", base_end + 60, f"bare {base_end:.0f} ms")
    began = time.time()
    runs = [experiment.submit(config()) for _ in range(MANY)]
    for run in runs:
        run.wait_for_completion()
    say(f"{MANY} runs that do nothing", MANY / (time.time() - began), "{:.1f} a second", 40, is_least=True)
    run = experiment.submit(config("wait.py"))
    while not os.path.exists(out + ".waits"):
        time.sleep(0.01)
    memory = _private_mib(home / "runs" / run.id / "1" / "runner.json")
    say("private memory of a live runner that has worked before", memory, "{:.1f} MiB", 2)
    run.cancel()
    run.wait_for_completion(raise_on_error=False)


def _private_mib(record: Path) -> float:
    """The pages that the process of that identity shares with no other."""
    pid = json.loads(record.read_text())["pid"]
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
