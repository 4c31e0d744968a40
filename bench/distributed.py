"""Runs of several processes: until all of them run, beside a bare mpirun; a fresh node; a decision of the scheduler."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure import median_s, own_server, say

SCRIPT = "import os, time\nopen(os.environ['OUT'], 'a').write('%f\\n' % time.time())\n"
#: Computes for some seconds, and says from when to when.
BUSY = """
import os, time
began = time.time()
found = 0
for number in range(20_000_000):
    found += number
open(os.environ["OUT"], "a").write("%f %f\\n" % (began, time.time()))
"""
PROCESSES, TRIES, WAITING, WORK_TRIES = 4, 9, 1_000, 5


def main() -> None:
    """Print the figures."""
    # What ranks say goes beside the home, of which they see their own folders alone.
    with own_server(), tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as told:
        (Path(folder) / "t.py").write_text(SCRIPT)
        _starts(folder, Path(told))
    _decisions()


def _starts(folder: str, told: Path) -> None:
    from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
    from runyard.azureml.core.compute import AmlCompute, ComputeTarget
    from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration

    workspace = Workspace.create("bench", exist_ok=True)
    config = AmlCompute.provisioning_configuration(max_nodes=2, idle_seconds_before_scaledown=0)
    ComputeTarget.create(workspace, "pair", config).wait_for_completion()
    environment = Environment("bench")
    environment.python.user_managed_dependencies = True
    out = told / "out.txt"

    def start_s(target: str, config: Any) -> float:
        out.unlink(missing_ok=True)
        asked = ScriptRunConfig(
            folder, "t.py", compute_target=target, environment=environment, distributed_job_config=config
        )
        asked.run_config.environment_variables = {"OUT": str(out)}
        began = time.time()
        Experiment(workspace, "distributed").submit(asked).wait_for_completion()
        return max(map(float, out.read_text().split())) - began

    def bare_s() -> float:
        out.unlink(missing_ok=True)
        words = ["mpirun", "-n", str(PROCESSES), "--oversubscribe", "--bind-to", "none", sys.executable]
        began = time.time()
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OUT": str(out)}
        subprocess.run([*words, os.path.join(folder, "t.py")], env={**os.environ, **root}, check=True)
        return max(map(float, out.read_text().split())) - began

    def median(measure: Any, *words: Any) -> float:
        return statistics.median(measure(*words) for _ in range(TRIES)) * 1e3

    bare = median(bare_s)
    mpi = median(start_s, "local", MpiConfiguration(process_count_per_node=PROCESSES))
    beside = f"bare mpirun {bare:.0f} ms"
    say("submit -> all of 4 ranks run, one node", f"{mpi:.0f} ms", f"{bare * 1.3:.0f} ms", beside)
    mpi = median(start_s, "pair", MpiConfiguration(process_count_per_node=PROCESSES // 2, node_count=2))
    say("submit -> all of 4 ranks run, two fresh nodes", f"{mpi:.0f} ms", "-", beside)
    torch = median(start_s, "local", PyTorchConfiguration(process_count=PROCESSES))
    say("submit -> all of 4 processes of PyTorch's kind run", f"{torch:.0f} ms", "-")
    fresh = median(start_s, "pair", None)
    say("demand -> script on a fresh local node", f"{fresh:.0f} ms", "300 ms")
    _overhead(folder, out, workspace, environment)


def _overhead(folder: str, out: Path, workspace: Any, environment: Any) -> None:
    """What Runyard costs ranks while they compute."""
    from runyard.azureml.core import Experiment, ScriptRunConfig
    from runyard.azureml.core.runconfig import MpiConfiguration

    busy = Path(folder) / "busy.py"
    busy.write_text(BUSY)

    def works_s(is_bare: bool) -> float:
        """From the first rank's first step to the last one's last; two ranks, since this is what the host can give."""
        out.unlink(missing_ok=True)
        if is_bare:
            words = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", sys.executable, str(busy)]
            root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OUT": str(out)}
            subprocess.run(words, env={**os.environ, **root}, check=True)
        else:
            config = MpiConfiguration(process_count_per_node=2)
            asked = ScriptRunConfig(
                folder, "busy.py", compute_target="local", environment=environment, distributed_job_config=config
            )
            asked.run_config.environment_variables = {"OUT": str(out)}
            Experiment(workspace, "distributed").submit(asked).wait_for_completion()
        times = [tuple(map(float, line.split())) for line in out.read_text().splitlines()]
        return max(end for _, end in times) - min(begin for begin, _ in times)

    pairs = [(works_s(False), works_s(True)) for _ in range(WORK_TRIES)]
    ours, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
    shown = f"{(ours / alone - 1) * 100:+.1f} %"
    say("wall time of two ranks that compute, beside bare mpirun", shown, "1 %", f"bare {alone:.1f} s")


def _decisions() -> None:
    from runyard.control.places import ClusterView, Waiting
    from runyard.control.schedule import NodeView, decide

    cluster = ClusterView("ws", "cpu", 0, 64, 60)
    nodes = [NodeView(f"ws/cpu/node-{n}", "ws", "cpu", f"busy-{n}" if n % 2 else None, 0) for n in range(64)]
    waiting = [Waiting(f"run-{n}", "ws", "cpu", 1 + n % 4, 0) for n in range(WAITING)]
    took = median_s(lambda: decide(waiting, nodes, [cluster], 0, 2, 1), 21) * 1e3
    say(f"a decision about {WAITING} waiting runs and 64 nodes", f"{took:.1f} ms", "20 ms")
