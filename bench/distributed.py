"""Runs of several processes: until all of them run, beside mpirun and torchrun alone; what Runyard costs while they
compute; a fresh node; a decision of the scheduler."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import median_s, medians, own_server, say

SCRIPT = "import os, time\nopen(os.environ['OUT'], 'a').write('%f\\n' % time.time())\n"
#: Computes for some seconds, and says how much of a processor that took.
BUSY = """
import os, time
found = 0
for number in range(20_000_000):
    found += number
open(os.environ["OUT"], "a").write("%f\\n" % time.process_time())
"""
PROCESSES, WAITING = 4, 1_000
#: torchrun takes seconds, to import PyTorch.
TRIES, TORCH_TRIES, WORK_TRIES = 11, 3, 3
#: A start may take so many times as long as that of mpirun or torchrun alone.
START_MOST = 1.3
#: Of what ranks that compute take of the processors, so much may go to Runyard, percent.
OVERHEAD_MOST = 1.0
#: mpirun refuses to be root.
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPIRUN = ("mpirun", "--oversubscribe", "--bind-to", "none", "-n")


def main() -> None:
    """Print the figures."""
    # What ranks say goes beside the home, of which they see their own folders alone.
    with own_server(), tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as told:
        bench = Bench(Path(folder), Path(told) / "out.txt")
        bench.starts()
        bench.torch_starts()
        bench.overhead()
    _decisions()


class Bench:
    """A workspace with a cluster of two nodes, and scripts that write to a file."""

    def __init__(self, folder: Path, out: Path) -> None:
        from runyard.azureml.core import Experiment, Workspace
        from runyard.azureml.core.compute import AmlCompute, ComputeTarget

        self._folder, self._out = folder, out
        workspace = Workspace.create("bench", exist_ok=True)
        config = AmlCompute.provisioning_configuration(max_nodes=2, idle_seconds_before_scaledown=0)
        ComputeTarget.create(workspace, "pair", config).wait_for_completion()
        self._experiment = Experiment(workspace, "distributed")
        (folder / "t.py").write_text(SCRIPT)
        (folder / "busy.py").write_text(BUSY)

    def starts(self) -> None:
        """MPI on one node and on two; and one process on a fresh node."""
        from runyard.azureml.core.runconfig import MpiConfiguration

        one = MpiConfiguration(process_count_per_node=PROCESSES)
        two = MpiConfiguration(process_count_per_node=PROCESSES // 2, node_count=2)
        mpirun = partial(self._bare_s, [*MPIRUN, str(PROCESSES), sys.executable])
        ours, far, fresh, bare = medians(
            [
                partial(self._start_s, "local", one),
                partial(self._start_s, "pair", two),
                partial(self._start_s, "pair", None),
                mpirun,
            ],
            TRIES,
        )
        beside = f"bare mpirun {bare * 1e3:.0f} ms"
        say("submit -> all of 4 ranks run, one node", ours * 1e3, "{:.0f} ms", bare * 1e3 * START_MOST, beside)
        say("submit -> all of 4 ranks run, two fresh nodes", far * 1e3, "{:.0f} ms", None, f"{beside}, one node")
        say("demand -> script on a fresh local node", fresh * 1e3, "{:.0f} ms", 300)

    def torch_starts(self) -> None:
        """Four processes of PyTorch's kind, in an environment that has it."""
        from runyard.azureml.core.runconfig import PyTorchConfiguration
        from tests.frameworks.torch_python import torch_python

        python = torch_python()
        torchrun = [str(python.with_name("torchrun")), "--standalone", f"--nproc-per-node={PROCESSES}"]
        ours, bare = medians(
            [
                partial(self._start_s, "local", PyTorchConfiguration(process_count=PROCESSES), str(python)),
                partial(self._bare_s, torchrun),
            ],
            TORCH_TRIES,
        )
        beside = f"bare torchrun {bare * 1e3:.0f} ms"
        say("submit -> all of 4 processes of PyTorch run", ours * 1e3, "{:.0f} ms", bare * 1e3 * START_MOST, beside)

    def overhead(self) -> None:
        """What all of Runyard takes of the processors, from the submit to the end, while two ranks compute.

        Their wall time would tell less: what else the machine does changes it by more than that.
        """
        from runyard.azureml.core.runconfig import MpiConfiguration
        from runyard.client.local_server import connect

        server = connect()
        pid = server.call("server_info").pid
        server.close()

        def ours_s() -> float:
            before = _cpu_s(pid) + time.process_time()
            self._start_s("local", MpiConfiguration(process_count_per_node=2), script="busy.py")
            return _cpu_s(pid) + time.process_time() - before - sum(self._told())

        def bare_s() -> float:
            before = os.times()
            self._bare_s([*MPIRUN, "2", sys.executable], "busy.py")
            after = os.times()
            theirs.append(sum(self._told()))
            return after.children_user + after.children_system - before[2] - before[3] - theirs[-1]

        theirs: list[float] = []
        ours, bare = medians([ours_s, bare_s], WORK_TRIES)
        ranks = statistics.median(theirs)
        beside = f"{ours:.2f} s, mpirun alone {bare:.2f} s, the ranks {ranks:.1f} s"
        share = (ours - bare) / ranks * 100
        say("processor's time beside two ranks that compute", share, "{:+.2f} %", OVERHEAD_MOST, beside)

    def _start_s(self, target: str, config: Any, python: str = "", script: str = "t.py") -> float:
        """From the submit to the last process's word; returns once the run has completed."""
        from runyard.azureml.core import Environment, ScriptRunConfig

        self._out.unlink(missing_ok=True)
        environment = Environment("bench")
        environment.python.user_managed_dependencies = True
        if python:
            environment.python.interpreter_path = python
        asked = ScriptRunConfig(
            str(self._folder), script, compute_target=target, environment=environment, distributed_job_config=config
        )
        asked.run_config.environment_variables = {"OUT": str(self._out)}
        began = time.time()
        self._experiment.submit(asked).wait_for_completion()
        return max(self._told()) - began

    def _bare_s(self, words: Sequence[str], script: str = "t.py") -> float:
        self._out.unlink(missing_ok=True)
        began = time.time()
        variables = {**os.environ, **ROOT, "OUT": str(self._out)}
        subprocess.run([*words, str(self._folder / script)], env=variables, check=True, stderr=subprocess.DEVNULL)
        return max(self._told()) - began

    def _told(self) -> list[float]:
        return [float(line) for line in self._out.read_text().split()]


def _cpu_s(root: int) -> float:
    """What a process and all below it have taken of the processors, those included that they have waited for."""
    stats = dict(_stats())
    below = {root}
    while more := {pid for pid, fields in stats.items() if int(fields[1]) in below} - below:
        below |= more
    ticks = sum(int(field) for pid in below if pid in stats for field in stats[pid][11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), path.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue


def _decisions() -> None:
    from runyard.control.places import ClusterView, Waiting
    from runyard.control.schedule import NodeView, decide

    cluster = ClusterView("ws", "cpu", 0, 64, 60)
    nodes = [NodeView(f"ws/cpu/node-{n}", "ws", "cpu", f"busy-{n}" if n % 2 else None, 0) for n in range(64)]
    waiting = [Waiting(f"run-{n}", "ws", "cpu", 1 + n % 4, 0) for n in range(WAITING)]
    took = median_s(lambda: decide(waiting, nodes, [cluster], 0, 2, 1), 21) * 1e3
    say(f"a decision about {WAITING} waiting runs and 64 nodes", took, "{:.1f} ms", 20)
