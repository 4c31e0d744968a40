"""What runs take of their node: looked at while they run, and kept apart from their metrics; idle GPUs are told of."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.files.processes import ProcessTable
from tests.engines.engines import wait_until
from tests.own_server import log_of, own_server

#: What stands in for NVIDIA's program: two cards, of which one works.
PROGRAM = """#!{python}
import sys
uuids, work = ("GPU-aa", "GPU-bb"), (0, 97)
if sys.argv[1].startswith("--query-gpu="):
    names = sys.argv[1].partition("=")[2].split(",")
    for index in (0, 1):
        known = {{"index": index, "uuid": uuids[index], "memory.total": 24576, "memory.used": 512}}
        known["utilization.gpu"] = work[index]
        print(", ".join(str(known[name]) for name in names))
"""
SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path
from azureml.core import Run
Run.get_context().log("loss", 1.5)
taken = bytearray(300 << 20)
taken[::4096] = b"x" * len(taken[::4096])
burns = subprocess.Popen([sys.executable, "-c", "while True: pass"])
while not Path(os.environ["GO"]).exists():
    time.sleep(0.05)
burns.kill()
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    program = tmp_path / "nvidia" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with own_server(tmp_path / "home"):
        yield Workspace.create("usage", exist_ok=True)


def submit(workspace: Workspace, folder: Path, target: str) -> Run:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "script.py").write_text(SCRIPT)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    config = ScriptRunConfig(str(folder / "source"), "script.py", compute_target=target, environment=environment)
    # A twentieth of a minute: the first look, after ten seconds, finds the limit passed.
    variables = {"GO": str(folder / "go"), "RUNYARD_GPU_IDLE_MINUTES": "0.05"}
    config.run_config.environment_variables = variables
    return Experiment(workspace, "usage").submit(config)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_usage_is_kept_beside_the_metrics_and_idle_gpus_are_told_of(workspace: Workspace, tmp_path: Path) -> None:
    for name, size in (("one", "STANDARD_NC6"), ("none", "STANDARD_D2_V2")):
        ComputeTarget.create(workspace, name, AmlCompute.provisioning_configuration(size, max_nodes=2))
    idle = submit(workspace, tmp_path, "one")
    wait_until(lambda: idle.get_status() == "Running", "it has the first card")
    busy, plain = submit(workspace, tmp_path, "one"), submit(workspace, tmp_path, "none")
    wait_until(lambda: all(one.get_usage() for one in (idle, busy, plain)), "each was looked at", 120)
    told = "GPU 0 was idle for 0.05 minutes; the run keeps them until it ends."
    wait_until(lambda: [one["message"] for one in idle.get_details().get("warnings", [])] == [told], "it is warned of")
    assert told in idle.why()
    (tmp_path / "go").touch()
    for run in (idle, busy, plain):
        run.wait_for_completion()
        assert run.get_metrics() == {"loss": 1.5}
        assert run.get_metrics("loss") == {"loss": 1.5}
        assert list(run.get_usage()) == [0]
    assert not busy.get_details().get("warnings")
    assert told in log_of(idle, tmp_path)
    series = busy.get_usage()[0]
    assert sorted(series) == ["cpu_percent", "disk_free_bytes", "gpu_1_memory_bytes", "gpu_1_percent", "memory_bytes"]
    assert sorted(plain.get_usage()[0]) == ["cpu_percent", "disk_free_bytes", "memory_bytes"]
    (at, percent), *_ = series["gpu_1_percent"]
    assert (percent, abs(at.timestamp() - time.time()) < 240) == (97.0, True)
    assert series["gpu_1_memory_bytes"][0][1] == 512 << 20
    assert 300 << 20 < max(value for _, value in series["memory_bytes"]) < 2 << 30
    assert max(value for _, value in series["cpu_percent"]) > 5
    shown = runyard("run", "show", busy.id, "--usage", "--workspace", workspace.name)
    assert "gpu_1" in shown
    assert "97.0" in shown
    rows = json.loads(runyard("run", "show", busy.id, "--usage", "--json", "--workspace", workspace.name))
    assert {name for _, name, _, _ in rows} == set(series)


def runyard(*arguments: str) -> str:
    command = [sys.executable, "-m", "runyard.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def test_time_of_processes_that_have_ended_counts() -> None:
    spins = "import time\\nwhile time.process_time() < 0.4: pass"
    burn = f"import subprocess, sys\nfor _ in range(2):\n subprocess.run([sys.executable, '-c', '{spins}'])\n"
    waits = (
        "rest = subprocess.Popen([sys.executable, '-c', 'input()'])\nprint('done', flush=True)\nrest.wait()\ninput()"
    )
    child = subprocess.Popen([sys.executable, "-c", burn + waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    used_s, memory_bytes = ProcessTable().usage_below(child.pid)
    assert 0.7 < used_s < 5
    assert memory_bytes > 1 << 20, "the one that waits"
    child.communicate(b"\n\n")
    assert ProcessTable().usage_below(child.pid) == (0.0, 0)
