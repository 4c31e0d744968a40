"""Confined jobs, by real bubblewrap: what they find of the server and of others, and that they work as any."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration
from runyard.files.processes import process_name
from runyard.protocol.plan import Isolation
from runyard.runner.processes import descendants
from runyard.sdk.session import current_server
from tests.own_server import own_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("sandbox"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="tests/system-packages.sh installs bubblewrap"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("sandbox-home"), RUNYARD_ISOLATION="hidden"):
        found = Workspace.create("apart", exist_ok=True)
        config = AmlCompute.provisioning_configuration(max_nodes=2)
        ComputeTarget.create(found, "pair", config).wait_for_completion()
        yield found


def run_script(
    workspace: Workspace,
    folder: Path,
    script: str,
    *arguments: Any,
    config: Any = None,
    target: str = "local",
    interpreter: str = "",
    **variables: str,
) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(script)
    environment = Environment("plain")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = interpreter or environment.python.interpreter_path
    environment.environment_variables.update({"TEST_HOME": os.environ["RUNYARD_HOME"], **variables})
    asked = ScriptRunConfig(
        str(folder), "train.py", list(arguments), compute_target=target, environment=environment,
        distributed_job_config=config,
    )  # fmt: skip
    return Experiment(workspace, "apart").submit(asked)


def completed(run: Run) -> dict[str, Any]:
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run.get_details_with_logs()
    found: dict[str, Any] = run.get_metrics()
    return found


LOOKS = """
import ctypes
import os, signal, subprocess, sys
from azureml.core import Run
run, home = Run.get_context(), os.environ["TEST_HOME"]
found = [os.path.join(top, name) for top, _, names in os.walk(home) for name in names]
tail = os.environ["AZUREML_RUN_ID"]
run.log("others", [one for one in found if not any(own in one for own in (tail, "/kits/", "/environment/"))])
run.log("pids", len([one for one in os.listdir("/proc") if one.isdigit()]))
def tries(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    return "worked"
run.log("kill", tries(lambda: os.kill(int(sys.argv[1]), signal.SIGKILL)))
run.log("trace", ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), 0, 0))
run.log("memory", tries(lambda: open("/proc/" + sys.argv[1] + "/mem", "rb")))
run.log("secrets", tries(lambda: open("/proc/" + sys.argv[1] + "/environ", "rb")))
run.log("disk", [name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "nvme", "mem", "kmsg", "loop"))])
run.log("kit", tries(lambda: open(os.path.join(os.environ["PYTHONPATH"], "x"), "w")))
run.log("unmount", subprocess.run(["umount", home], stderr=subprocess.DEVNULL).returncode != 0)
run.log("runner", [name for name in ("launch.json", "runner.json", "reports.jsonl")
                   if os.path.exists(os.path.join(os.path.dirname(os.environ["RUNYARD_SPOOL"]), name))])
"""


def test_job_finds_nothing_of_the_server_and_of_other_runs(workspace: Workspace, tmp_path: Path) -> None:
    first = run_script(workspace, tmp_path / "first", "import time; time.sleep(60)")
    pid = current_server().call("server_info").pid
    found = completed(run_script(workspace, tmp_path / "second", LOOKS, str(pid)))
    first.cancel()
    assert found["others"] == []
    assert found["pids"] < 10
    assert found["kill"] == "ProcessLookupError"
    assert (found["trace"], found["memory"], found["secrets"]) == (-1, "FileNotFoundError", "FileNotFoundError")
    assert found["disk"] == []
    assert found["kit"] == "OSError"
    assert found["unmount"] is True
    assert found["runner"] == []
    assert current_server().call("server_info").pid == pid, "the server lives"


WORKS = """
import os, sys
from azureml.core import Run
run = Run.get_context()
run.log("data", open(os.path.join(sys.argv[1], "a.txt")).read())
open("outputs/model.txt", "w").write("weights")
run.upload_file("more.txt", "outputs/model.txt")
run.tag("seen", "yes")
print("said")
"""


def test_confined_job_works_as_any_other(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("kept")
    store = workspace.get_default_datastore()
    store.upload(str(tmp_path / "data"), "apart", overwrite=True)
    data = Dataset.File.from_files((store, "apart/a.txt")).as_named_input("data").as_mount()
    run = run_script(workspace, tmp_path / "source", WORKS, data)
    assert completed(run) == {"data": "kept"}
    assert {"outputs/model.txt", "more.txt"} <= set(run.get_file_names())
    assert run.get_tags()["seen"] == "yes"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
    ],
)
def test_end_of_a_confined_script_is_told_as_it_was(workspace: Workspace, tmp_path: Path, body: str, says: str) -> None:
    run = run_script(workspace, tmp_path / "source", body)
    run.wait_for_completion(raise_on_error=False)
    assert says in str(run.get_details()["error"])


ENDS = """
import signal, sys, time
def end(*_):
    time.sleep(0.5)
    print("told to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(100)
"""


def test_confined_interpreter_may_lie_at_any_path(workspace: Workspace, tmp_path: Path) -> None:
    python = tmp_path / "python==3 of 'mine'"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python)], check=True)
    script = "import sys\nfrom azureml.core import Run\nRun.get_context().log('prefix', sys.prefix)"
    run = run_script(workspace, tmp_path / "source", script, interpreter=str(python / "bin" / "python"))
    assert completed(run)["prefix"] == str(python)


@pytest.fixture
def waiting(workspace: Workspace, tmp_path: Path) -> Run:
    """A run whose script waits to be told to end."""
    run = run_script(workspace, tmp_path / "source", ENDS)
    log = attempt_folder(run) / "std_log.txt"
    while not log.exists() or "started" not in log.read_text():
        assert run.get_status() not in ("Failed", "Completed"), run.get_details()
    return run


def attempt_folder(run: Run) -> Path:
    return Path(os.environ["RUNYARD_HOME"]) / "runs" / run.id / "1"


def test_canceled_script_hears_of_it(waiting: Run) -> None:
    waiting.cancel()
    waiting.wait_for_completion(raise_on_error=False)
    assert waiting.get_status() == "Canceled"
    assert "told to end" in waiting.get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]


def test_script_has_its_grace_where_everything_is_told_to_end(waiting: Run) -> None:
    """As Slurm tells the processes of a job, and a machine that shuts down: bubblewrap too."""
    runner = json.loads((attempt_folder(waiting) / "runner.json").read_text())["pid"]
    found = descendants(runner)
    assert "bwrap" in {process_name(pid) for pid in found}
    for pid in [*found, runner]:
        os.kill(pid, signal.SIGTERM)
    waiting.wait_for_completion(raise_on_error=False)
    assert "told to end" in waiting.get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]


@pytest.mark.parametrize("config", [MpiConfiguration(2, 2), PyTorchConfiguration(process_count=4, node_count=2)])
def test_distributed_run_is_confined_on_every_node(workspace: Workspace, tmp_path: Path, config: Any) -> None:
    script = (
        "import os\nfrom azureml.core import Run\n"
        "Run.get_context().log('rank', int(os.environ['RUNYARD_RANK']))\n"
        "Run.get_context().log('space', os.readlink('/proc/self/ns/pid'))\n"
        "assert not os.path.exists(os.environ['TEST_HOME'] + '/runyard.db')\n"
    )
    run = run_script(workspace, tmp_path / "source", script, config=config, target="pair")
    found = completed(run)
    assert sorted(found["rank"]) == [0, 1, 2, 3]
    assert len(set(found["space"])) == 2, "a node's processes know each other, and not those of other nodes"


def test_default_is_hidden_where_bubblewrap_works(tmp_path: Path) -> None:
    """In a home behind a link, too."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with own_server(tmp_path / "link" / "home", RUNYARD_ISOLATION=""):
        found = current_server().call("server_info")
        assert (found.isolation, found.isolation_problem) == (Isolation.HIDDEN, "")
        assert "isolation of jobs: hidden" in (tmp_path / "disk" / "home" / "server.log").read_text()
        run = run_script(Workspace.create("apart"), tmp_path / "source", LOOKS, str(found.pid))
        assert completed(run)["others"] == []


def test_server_says_at_its_start_that_its_jobs_are_trusted_and_why(tmp_path: Path) -> None:
    variables = {name: text for name, text in os.environ.items() if name != "RUNYARD_ISOLATION"}
    variables.update(RUNYARD_HOME=str(tmp_path / "home"), PATH=str(tmp_path))
    command = [sys.executable, "-m", "runyard.cli"]
    up = subprocess.run([*command, "up"], env=variables, capture_output=True, text=True, check=True)
    try:
        why = "Jobs may do all that the server's user may: bubblewrap is not installed"
        assert why in up.stderr
        assert why in (tmp_path / "home" / "server.log").read_text()
        told = subprocess.run([*command, "status"], env=variables, capture_output=True, text=True, check=True)
        assert "trusted" in told.stdout
        assert why in told.stderr
        doctor = subprocess.run([*command, "doctor"], env=variables, capture_output=True, text=True, check=False)
        assert f"warn  Isolation: trusted; {why}" in doctor.stdout
    finally:
        subprocess.run([*command, "down"], env=variables, capture_output=True, check=True)


def test_server_does_not_start_hidden_where_it_cannot_be(tmp_path: Path) -> None:
    variables = {**os.environ, "RUNYARD_HOME": str(tmp_path / "home"), "RUNYARD_ISOLATION": "hidden"}
    command = [sys.executable, "-m", "runyard.server", "--home", str(tmp_path / "home")]
    done = subprocess.run(command, env={**variables, "PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "runyard: RUNYARD_ISOLATION is hidden, and bubblewrap is not installed (Debian: apt install bubblewrap)."
    )


OPENS = """
import os, sys
from azureml.core import Run
path = sys.argv[1] if os.path.isfile(sys.argv[1]) else os.path.join(sys.argv[1], os.listdir(sys.argv[1])[0])
Run.get_context().log("text", open(path).read())
Run.get_context().log("token", os.path.exists(os.environ["TEST_HOME"] + "/token"))
"""


def test_file_in_a_folder_around_the_home_opens_no_more_than_itself(workspace: Workspace, tmp_path: Path) -> None:
    home = Path(os.environ["RUNYARD_HOME"])
    (home.parent / "beside.csv").write_text("rows")
    beside = Dataset.File.from_files(str(home.parent / "beside.csv"), validate=False).as_named_input("d").as_mount()
    assert completed(run_script(workspace, tmp_path / "source", OPENS, beside)) == {"text": "rows", "token": False}
    token = Dataset.File.from_files(str(home / "token"), validate=False).as_named_input("d").as_mount()
    run = run_script(workspace, tmp_path / "source", OPENS, token)
    run.wait_for_completion(raise_on_error=False)
    assert "is the server's own" in str(run.get_details()["error"])


STEALS = """
import os
open(os.environ["STOLEN"], "w").write(open(os.environ["TEST_HOME"] + "/token").read())
"""


def test_programs_of_the_job_do_not_run_outside(workspace: Workspace, tmp_path: Path) -> None:
    """Not by their names on the job's PATH, and not by what they leave where mpirun's launches go."""
    folder, stolen = tmp_path / "source", tmp_path / "stolen"
    folder.mkdir()
    for name in ("bwrap", "mpirun", "orted", "true"):
        (folder / name).write_text(f"#!{sys.executable}\n{STEALS}")
        (folder / name).chmod(0o755)
    script = (
        "import json, os, sys, time\n"
        "top = os.path.dirname(os.environ['AZUREML_CR_EXECUTION_WORKING_DIR_PATH'])\n"
        "victim = os.environ['TEST_HOME'] + '/server.log'\n"
        "if os.path.isdir(top + '/launches'):\n"
        "    os.symlink(victim, top + '/launches/x.json.new')\n"
        "    json.dump({'node': 'node-0', 'words': ['orted']}, open(top + '/launches/x.json', 'w'))\n"
        "    open(top + '/launches/y.json', 'w').write('{')\n"
        "    os.mkfifo(top + '/launches/z.json')\n"
        "    time.sleep(1)\n"
        "    try:\n"
        "        open(top + '/bin/bwrap', 'w')\n"
        "    except OSError:\n"
        "        print('no room for another one')\n"
    )
    for config, target in ((None, "local"), (MpiConfiguration(2), "local"), (MpiConfiguration(1, 2), "pair")):
        run = run_script(
            workspace, folder, script, config=config, target=target, STOLEN=str(stolen),
            PATH="$AZUREML_CR_EXECUTION_WORKING_DIR_PATH:/usr/bin:/bin",
        )  # fmt: skip
        run.wait_for_completion(raise_on_error=False)
        assert run.get_status() in ("Completed", "Failed")
        assert not stolen.exists()
    assert (Path(os.environ["RUNYARD_HOME"]) / "server.log").stat().st_size > 0


def test_pipe_in_place_of_a_shared_file_holds_nothing_up(workspace: Workspace, tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "os.unlink(os.environ['RUNYARD_SERVER_FILE'])\n"
        "os.mkfifo(os.environ['RUNYARD_SERVER_FILE'])\n"
        "time.sleep(3)\n"
    )
    run = run_script(workspace, tmp_path / "source", script)
    assert completed(run) == {}


def test_a_variable_that_a_shell_could_not_name_reaches_the_script(workspace: Workspace, tmp_path: Path) -> None:
    script = "import os\nfrom azureml.core import Run\nRun.get_context().log('told', os.environ['odd-name.of'])\n"
    assert completed(run_script(workspace, tmp_path / "odd", script, **{"odd-name.of": "it"})) == {"told": "it"}
