"""The GPUs of a host: seen by NVIDIA's own program, given to one run each, and to no run where another program is."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.compute import gpus as module
from runyard.compute.gpus import Gpu, NvidiaGpus, parse, visible
from runyard.sdk.session import current_server
from tests.engines.engines import wait_until, with_prefix
from tests.own_server import log_of, own_server

GPUS = "0, GPU-aa, 24576, 3\n1, GPU-bb, 24576, 412\n2, GPU-cc, 24576, 9000\n"
#: What stands in for NVIDIA's program: it shows two files.
PROGRAM = """#!{python}
import pathlib, sys
here = pathlib.Path({folder!r})
sys.stdout.write((here / ("gpus" if sys.argv[1].startswith("--query-gpu=") else "processes")).read_text())
sys.exit((here / "broken").exists())
"""
SCRIPT = """
import os, time
from pathlib import Path
print(os.environ["CUDA_VISIBLE_DEVICES"])
while not Path(os.environ["GO"]).exists():
    time.sleep(0.05)
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are what nvidia-smi shows."""
    folder = tmp_path / "nvidia"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    (folder / "gpus").write_text(GPUS)
    (folder / "processes").write_text("GPU-bb, 4242\nGPU-bb, 17\n")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_gpus_are_those_that_nvidia_smi_shows() -> None:
    found = parse(GPUS, "GPU-bb, 4242\nGPU-bb, 17\n[N/A]\n")
    assert [(one.index, one.uuid, one.holders) for one in found] == [
        (0, "GPU-aa", ()), (1, "GPU-bb", (17, 4242)), (2, "GPU-cc", ()),
    ]  # fmt: skip
    assert [one.user for one in found] == ["", "process 17, 4242", "something unseen"]
    assert found[0].memory_bytes == 24576 << 20
    assert parse("0, GPU-aa, [N/A], [N/A]\n", "") == (Gpu(0, "GPU-aa", 0),)


def test_server_that_may_see_some_gpus_gives_out_those() -> None:
    found = parse(GPUS, "")
    for wanted, seen in ((None, [0, 1, 2]), ("", []), ("2,0", [0, 2]), ("GPU-b", [1]), ("MIG-1", []), ("-1", [])):
        assert [one.index for one in visible(found, wanted)] == seen


def test_host_without_the_program_has_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert NvidiaGpus().list() == ()


def test_host_whose_driver_finds_no_gpu_has_none(host: Path) -> None:
    (host / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    gpus = NvidiaGpus()
    assert (gpus.list(), gpus.trouble) == ((), "")


def test_driver_that_finds_no_gpu_after_all_is_in_no_trouble(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "broken").touch()
    gpus = NvidiaGpus()
    assert gpus.list() == ()
    assert "exit code 1" in gpus.trouble
    (host / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    monkeypatch.setattr(module, "RETRY_S", -1.0)
    wait_until(lambda: not gpus.list() and gpus.trouble == "", "runs wait for none any more")


def test_gpus_of_a_driver_in_trouble_are_given_to_nobody_until_it_answers(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", -1.0)
    gpus = NvidiaGpus()
    assert [bool(one.user) for one in gpus.list()] == [False, True, True]
    (host / "broken").touch()
    assert [one.user for one in gpus.list()] == ["something unseen"] * 3
    (host / "broken").unlink()
    wait_until(lambda: [bool(one.user) for one in gpus.list()] == [False, True, True], "it answers again")
    assert gpus.trouble == ""


def test_driver_that_is_not_there_yet_is_asked_again(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that starts before it gives each run all GPUs until somebody starts it again."""
    (host / "broken").touch()
    gpus = NvidiaGpus()
    assert gpus.list() == ()
    (host / "broken").unlink()
    assert gpus.list() == (), "not at once: to ask may take long"
    monkeypatch.setattr(module, "RETRY_S", -1.0, raising=False)
    assert gpus.list(may_be_old=True) == ()
    wait_until(lambda: [one.index for one in gpus.list()] == [0, 1, 2], "it answers")


def test_nobody_waits_for_a_driver_that_hangs_again(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop asks each round, for whatever run: one of 15 seconds held up all others, every 30 of them."""
    monkeypatch.setattr(module, "RETRY_S", -1.0)
    (host / "broken").touch()
    gpus = NvidiaGpus()
    assert gpus.list() == ()
    assert gpus.trouble.startswith("nvidia-smi ended with exit code 1, saying '0, GPU-aa")
    (host / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(module, "ANSWER_S", 2.0)
    began = time.monotonic()
    for _ in range(20):
        assert gpus.list() == ()
    assert time.monotonic() - began < 1
    wait_until(lambda: gpus.trouble == "nvidia-smi did not answer within 2 seconds", "it is told")


@pytest.fixture
def workspace(host: Path, tmp_path: Path) -> Iterator[Workspace]:
    with own_server(tmp_path / "home"):
        yield Workspace.create("gpus", exist_ok=True)


def _submit(workspace: Workspace, folder: Path, target: str) -> Run:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "script.py").write_text(SCRIPT)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    config = ScriptRunConfig(str(source), "script.py", compute_target=target, environment=environment)
    config.run_config.environment_variables = {"GO": str(folder / "go")}
    return Experiment(workspace, "gpus").submit(config)


@pytest.mark.e2e
def test_each_run_has_a_gpu_of_its_own_and_the_next_waits_for_one(
    workspace: Workspace, host: Path, tmp_path: Path
) -> None:
    for name, size in (("one", "STANDARD_NC6"), ("two", "STANDARD_NC12"), ("none", "STANDARD_D2_V2")):
        config = AmlCompute.provisioning_configuration(size, max_nodes=2)
        made = ComputeTarget.create(workspace, name, config)
        assert "GPU" not in json.dumps(made.get_status().serialize()), "the host has what the size has"
    (host / "processes").write_text("GPU-bb, 4242\n")
    first, plain = _submit(workspace, tmp_path, "one"), _submit(workspace, tmp_path, "none")
    wait_until(lambda: first.get_status() == plain.get_status() == "Running", "both run")
    second = _submit(workspace, tmp_path, "one")

    def why() -> str:
        return str(current_server().call("explain_run", workspace=workspace.name, run_id=second.id).waits_for)

    wait_until(lambda: "process 4242" in why(), "the reason names who has the GPU")
    assert "Waits for 1 GPU of this machine's 3 to be free; GPU 1 is used by process 4242" in why()
    (host / "processes").write_text("")
    wait_until(lambda: second.get_status() == "Running", "a GPU that is left is given out")
    third = _submit(workspace, tmp_path, "local")
    wait_until(lambda: third.get_status() == "Running", "a local run starts")
    (tmp_path / "go").touch()
    seen = [log_of(one, tmp_path).strip() for one in (first, second, plain, third)]
    assert seen == ["0", "1", "", "2"]


@pytest.mark.e2e
@pytest.mark.parametrize("killed", ["the script", "its runner", "both"])
def test_gpu_of_a_killed_run_is_given_to_the_next_within_five_seconds(
    workspace: Workspace, host: Path, tmp_path: Path, killed: str
) -> None:
    (host / "gpus").write_text("0, GPU-aa, 24576, 3\n")
    (host / "processes").write_text("")
    ComputeTarget.create(workspace, "one", AmlCompute.provisioning_configuration("STANDARD_NC6", max_nodes=2))
    first = _submit(workspace, tmp_path, "one")
    wait_until(lambda: first.get_status() == "Running", "it runs")
    second = _submit(workspace, tmp_path, "one")
    wait_until(lambda: second.get_status() == "Queued", "the other waits for the GPU")
    (record,) = (tmp_path / "home").glob(f"runs/{first.id}/1/runner.json")
    runner, scripts = int(json.loads(record.read_bytes())["pid"]), set(with_prefix("RUNYARD_KEY", f"{first.id}/1 "))
    assert runner not in scripts
    # As the driver shows what has died for a moment more.
    (host / "processes").write_text(f"GPU-aa, {min(scripts)}\n")
    dies_at = time.monotonic()
    for pid in {"the script": scripts, "its runner": {runner}, "both": {runner, *scripts}}[killed]:
        with suppress(ProcessLookupError):  # One may take the others along.
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/environ").exists() for pid in scripts), "its processes are gone")
    (host / "processes").write_text("")
    wait_until(lambda: second.get_status() == "Running", "the other has the GPU")
    assert time.monotonic() - dies_at < 5
    (tmp_path / "go").touch()
    second.wait_for_completion()
    first.wait_for_completion(raise_on_error=False)
    assert first.get_status() == "Failed"


@pytest.mark.e2e
def test_run_waits_for_gpus_that_never_answered_and_others_do_not(host: Path, tmp_path: Path) -> None:
    """It was given out without any, as on a host that has none, and saw those of all others."""
    (host / "broken").touch()
    with own_server(tmp_path / "home"):
        workspace = Workspace.create("gpus", exist_ok=True)
        for name, size in (("one", "STANDARD_NC6"), ("none", "STANDARD_D2_V2")):
            config = AmlCompute.provisioning_configuration(size, max_nodes=1)
            made = ComputeTarget.create(workspace, name, config)
            told = " ".join(made._record.warnings)
            assert ("the GPUs of this host could not be asked: nvidia-smi" in told) == (name == "one"), told
        (tmp_path / "go").touch()
        run, other = _submit(workspace, tmp_path, "one"), _submit(workspace, tmp_path, "none")
        other.wait_for_completion(raise_on_error=False)
        names = {"workspace": workspace.name, "run_id": run.id}
        said = "Waits for 1 GPU; the GPUs of this machine could not be asked: nvidia-smi ended with exit code 1"
        wait_until(lambda: str(current_server().call("explain_run", **names).waits_for).startswith(said), "it says why")
        assert "take nvidia-smi off" in current_server().call("explain_run", **names).unblocked_by
        run.cancel()
        run.wait_for_completion(raise_on_error=False)
        assert run.get_status() == "Canceled"
