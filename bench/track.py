"""run.log in the training loop, and how soon the server has what was logged; beside TensorBoard's SummaryWriter."""

import os
import subprocess
import sys
import tempfile
import time

from bench.measure import own_server, say

#: Times each call of ``log`` on its own; locals, so that the measuring costs as little as it can.
TIMED = """
import sys, time

def measure(log, count):
    clock, costs = time.perf_counter_ns, []
    for step in range(count):
        began = clock()
        log("loss", 1.0 / (step + 1), step)
        costs.append(clock() - began)
    costs.sort()
    print(costs[count // 2] / 1000, costs[count * 99 // 100] / 1000)
"""
LOOP = (
    TIMED
    + """
import os
os.environ.update(RUNYARD_SPOOL=sys.argv[1], AZUREML_RUN_ID="run", AZUREML_RUN_TOKEN="none")
from azureml.core import Run
run = Run.get_context()
measure(lambda name, value, step: run.log(name, value, step=step), 100_000)
"""
)
PEER = (
    TIMED
    + """
from tensorboardX import SummaryWriter
writer = SummaryWriter(sys.argv[1])
measure(lambda name, value, step: writer.add_scalar(name, value, step), 20_000)
"""
)
SCRIPT = """
import sys
from azureml.core import Run
run = Run.get_context()
for step in range(int(sys.argv[1])):
    run.log("loss", 1.0 / (step + 1), step=step)
"""
COUNT = 100_000


def main() -> None:
    """Print the figures."""
    p50, p99 = _loop(LOOP)
    try:
        peer, _ = _loop(PEER)
        beside = f"TensorBoard (tensorboardX) p50 {peer:.1f} µs: ratio {p50 / peer:.2f}, goal 0.6"
    except subprocess.CalledProcessError:
        beside = "(pip install tensorboardX to see the peer)"
    say("run.log in the loop, p50", p50, "{:.1f} µs", 4, beside)
    say("run.log in the loop, p99", p99, "{:.1f} µs", 50)
    os.environ["RUNYARD_LOCAL_SLOTS"] = "4"
    with own_server():
        _until_readable(1)
        _until_readable(4)


def _loop(code: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    p50, p99 = done.stdout.split()
    return float(p50), float(p99)


def _until_readable(runs: int) -> None:
    """From the first script's start until the server has every value of every run."""
    from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace

    workspace = Workspace.create("bench", exist_ok=True)
    environment = Environment("bench")
    environment.python.user_managed_dependencies = True
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "log.py"), "w") as file:
            file.write(SCRIPT)
        experiment = Experiment(workspace, "metrics")
        began = time.perf_counter()
        submitted = [
            experiment.submit(ScriptRunConfig(folder, "log.py", [COUNT], environment=environment)) for _ in range(runs)
        ]
        for run in submitted:
            run.wait_for_completion()
        took = time.perf_counter() - began
        assert all(len(run.get_metrics()["loss"]) == COUNT for run in submitted)
    if runs == 1:
        say("100,000 metrics, script's start to readable, each", took / COUNT * 1e6, "{:.1f} µs", 10)
    else:
        say("four runs at once, metrics a second in all", runs * COUNT / took, "{:,.0f}", 250_000, is_least=True)
