"""Jobs under user ids of their own, by real ones: what they find of the server and of others, and that they work."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Environment, Experiment, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.environments.job_users import user_ids, why_no_users
from runyard.environments.pythons import find_interpreters
from runyard.environments.uv import find_uv
from runyard.errors import ServiceException
from runyard.files.processes import of_user
from runyard.protocol.plan import Isolation
from runyard.runner.user import JobUser, is_open
from runyard.sdk.session import current_server
from tests.environments.packages import make_wheel
from tests.faults.house import wait_until
from tests.own_server import log_of, own_server
from tests.runner.conftest import MakeAttempt
from tests.runner.test_writable import NEW

#: A Python that others than root may run: the tests' own may lie in root's home.
PYTHONS = [one.path for one in find_interpreters() if is_open(os.path.realpath(one.path))]

#: For each run; the kernel's own limit for a user is a little above it.
PROCESSES_MAX = 300

NEEDED = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a server that is root gives its jobs users of their own"),
    pytest.mark.skipif(bool(why_no_users("/var/lib/runyard")), reason=why_no_users("/var/lib/runyard")),
    pytest.mark.skipif(not PYTHONS, reason="every Python of this host is closed to other users"),
]
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("user"), *NEEDED]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home that others can reach: pytest's own folders are closed."""
    top = tempfile.mkdtemp(prefix="runyard-user-")
    os.chmod(top, 0o711)
    yield Path(top) / "home"
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(scope="module")
def workspace(home: Path) -> Iterator[Workspace]:
    with own_server(home, RUNYARD_ISOLATION="user", RUNYARD_PROCESSES_MAX=str(PROCESSES_MAX)):
        found = Workspace.create("apart", exist_ok=True)
        config = AmlCompute.provisioning_configuration(max_nodes=2)
        ComputeTarget.create(found, "pair", config).wait_for_completion()
        yield found


def start(
    workspace: Workspace, folder: Path, script: str, *arguments: Any, config: Any = None, target: str = "local",
    **variables: str,
) -> Run:  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(script)
    environment = Environment("plain")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = variables.pop("python", PYTHONS[0])
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


def attempt_folder(run: Run, node: int = 0) -> Path:
    return Path(os.environ["RUNYARD_HOME"]) / "runs" / run.id / (f"1-{node}" if node else "1")


def started(run: Run) -> Run:
    """Once its script has said so."""
    log = attempt_folder(run) / "std_log.txt"
    while not log.exists() or "started" not in log.read_text():
        assert run.get_status() not in ("Failed", "Completed"), run.get_details_with_logs()
        time.sleep(0.02)
    return run


def user_of(run: Run) -> int:
    return int(json.loads((attempt_folder(run) / "user.json").read_text()))


LOOKS = """
import ctypes, os, signal, subprocess, sys
from azureml.core import Run
run, home, server, other, others_work = Run.get_context(), os.environ["TEST_HOME"], *map(str, sys.argv[1:])
def tries(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    return "worked"
def reads(path):
    return tries(lambda: os.listdir(path) if os.path.isdir(path) else open(path).read(1))
secrets = ["token", "runyard.db", "runyard.db-wal", "vault.key", "logs", "store", "datastores", "cache/data", "."]
run.log("secrets", {one: reads(os.path.join(home, one)) for one in secrets})
run.log("runs", [reads(home + "/runs"), reads(others_work), reads(os.path.dirname(others_work) + "/std_log.txt")])
run.log("variables", [reads("/proc/%s/environ" % pid) for pid in (server, other, os.getppid())])
run.log("kills", [tries(lambda: os.kill(int(pid), signal.SIGKILL)) for pid in (server, other, os.getppid())])
libc = ctypes.CDLL(None, use_errno=True)
run.log("traces", [libc.ptrace(16, int(pid), 0, 0) for pid in (server, other, os.getppid())])
own = os.path.dirname(os.environ["RUNYARD_SPOOL"])
kit = os.environ["PYTHONPATH"]
places = [kit, kit + "/runyard", home, home + "/cache/envs", own, own + "/inputs", own + "/processes", own + "/bin"]
run.log("writes", {one: tries(lambda: open(one + "/x", "w")) for one in places if os.path.isdir(one)})
runners = ("launch.json", "runner.json", "reports.jsonl")
run.log("reads", [tries(lambda: open(own + "/" + name, "r+")) for name in runners])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
run.log("rights", [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")])
run.log("ids", [os.getresuid(), os.getresgid(), os.getgroups(), os.umask(0o077), int(status["NoNewPrivs"])])
open(os.path.expanduser("~/x"), "w").close()
open(os.path.join(os.environ["TMPDIR"], "x"), "w").close()
"""


def test_job_reads_writes_and_ends_nothing_of_the_server_and_of_other_runs(
    workspace: Workspace, tmp_path: Path
) -> None:
    first = started(start(workspace, tmp_path / "first", "print('started'); import time; time.sleep(60)"))
    (other,) = of_user(user_of(first))
    pid = current_server().call("server_info").pid
    work = attempt_folder(first) / "work"
    found = completed(start(workspace, tmp_path / "second", LOOKS, str(pid), str(other), str(work)))
    first.cancel()
    first.wait_for_completion(raise_on_error=False)
    secrets = found["secrets"]
    assert secrets.pop("vault.key") in ("PermissionError", "FileNotFoundError")
    assert set(secrets.values()) == {"PermissionError"}, secrets
    for what in ("runs", "variables", "kills"):
        assert set(found[what]) == {"PermissionError"}, (what, found[what])
    assert found["traces"] == [-1, -1, -1]
    assert len(found["writes"]) > 4
    assert set(found["writes"].values()) == {"PermissionError"}, found["writes"]
    assert set(found["reads"]) == {"PermissionError"}
    assert set(found["rights"]) == {0}
    user, group, groups, mask, no_more = found["ids"]
    assert user == group
    assert user[0] in user_ids()
    assert len(set(user)) == 1
    assert (groups, mask, no_more) == ([], 0o077, 1)
    assert current_server().call("server_info").pid == pid, "the server lives"


WORKS = """
import os, sys
from azureml.core import Run
run = Run.get_context()
run.log("data", open(os.path.join(sys.argv[1], "a.txt")).read())
run.log("local", open(os.path.join(sys.argv[2], "b.txt")).read())
try:
    open(os.path.join(sys.argv[1], "a.txt"), "w")
except PermissionError:
    run.log("read-only", True)
open("outputs/model.txt", "w").write("weights")
open("logs/own.log", "w").write("said too")
open(os.path.join(sys.argv[3], "table.txt"), "w").write("rows")
run.upload_file("more.txt", "outputs/model.txt")
run.tag("seen", "yes")
print("said")
"""


@pytest.mark.parametrize("mode", ["mount", "download"])
def test_job_works_as_any_other(workspace: Workspace, tmp_path: Path, home: Path, mode: str) -> None:
    (tmp_path / "a.txt").write_text("kept")
    (home.parent / "b.txt").write_text("near")
    store = workspace.get_default_datastore()
    store.upload_files([str(tmp_path / "a.txt")], target_path="apart", overwrite=True)
    far, near = (
        getattr(one.as_named_input(name), f"as_{mode}")()
        for name, one in (
            ("far", Dataset.File.from_files((store, "apart/a.txt"))),
            ("near", Dataset.File.from_files(str(home.parent / "b.txt"), validate=False)),
        )
    )
    output = OutputFileDatasetConfig("rows", (store, f"made/{mode}"))
    run = start(workspace, tmp_path / "source", WORKS, far, near, output)
    assert completed(run) == {"data": "kept", "local": "near", "read-only": True}
    assert {"outputs/model.txt", "more.txt", "logs/own.log"} <= set(run.get_file_names())
    assert run.get_tags()["seen"] == "yes"
    store.download(str(tmp_path / "back"), prefix=f"made/{mode}")
    assert (tmp_path / "back" / "made" / mode / "table.txt").read_text() == "rows"
    stored = [one for one in (Path(os.environ["RUNYARD_HOME"]) / "store").rglob("*") if one.stat().st_uid != 0]
    assert stored == [], "what the server keeps is root's alone"


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


def test_canceled_script_hears_of_it(workspace: Workspace, tmp_path: Path) -> None:
    run = started(start(workspace, tmp_path / "source", ENDS))
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    assert "told to end" in run.get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]


def test_two_runs_at_once_have_different_users(workspace: Workspace, tmp_path: Path) -> None:
    runs = [start(workspace, tmp_path / name, ENDS) for name in ("first", "second")]
    users = {user_of(started(one)) for one in runs}
    assert len(users) == 2
    for one in runs:
        one.cancel()
        one.wait_for_completion(raise_on_error=False)


LEAVES = """
import os, sys, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(100)"], {})
        os._exit(0)
open("/tmp/left-by-%d" % os.getuid(), "w").close()
print("started", flush=True)
if sys.argv[1] == "wait":
    time.sleep(100)
"""


def test_nothing_of_a_user_is_left_when_its_run_has_ended(workspace: Workspace, tmp_path: Path) -> None:
    run = start(workspace, tmp_path / "source", LEAVES + "time.sleep(0.5)\n", "")
    user = user_of(started(run))
    completed(run)
    assert list(of_user(user)) == []
    wait_until(lambda: not Path(f"/tmp/left-by-{user}").exists(), "its file in /tmp is gone")


def test_killed_runner_leaves_no_process_of_its_user(workspace: Workspace, tmp_path: Path) -> None:
    run = started(start(workspace, tmp_path / "source", LEAVES, "wait"))
    user = user_of(run)
    wait_until(lambda: len(list(of_user(user))) == 4, "it has left three processes")
    os.kill(json.loads((attempt_folder(run) / "runner.json").read_text())["pid"], signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert list(of_user(user)) == []
    wait_until(lambda: not attempt_folder(run).exists(), "its folder is gone")


SPREADS = """
import os
from azureml.core import Run
run = Run.get_context()
run.log("rank", int(os.environ["RUNYARD_RANK"]))
run.log("user", os.getuid())
try:
    open(os.environ["TEST_HOME"] + "/token")
except PermissionError:
    run.log("closed", 1)
print("rank is here")
"""


@pytest.mark.parametrize(
    ("config", "nodes"),
    [(PyTorchConfiguration(process_count=4, node_count=2), 2), (MpiConfiguration(3), 1), (MpiConfiguration(2, 2), 2)],
    ids=["pytorch", "mpi", "mpi-nodes"],
)
def test_distributed_run_has_a_user_on_every_node(
    workspace: Workspace, tmp_path: Path, config: Any, nodes: int
) -> None:
    run = start(workspace, tmp_path / "source", SPREADS, config=config, target="pair")
    found = completed(run)
    assert sorted(found["rank"]) == list(range(len(found["rank"])))
    assert len(found["closed"]) == len(found["rank"])
    users = set(found["user"])
    assert len(users) == nodes
    assert users <= set(user_ids())
    logs = run.get_details_with_logs()["logFiles"]
    assert sum("rank is here" in text for text in logs.values()) >= len(found["rank"])


INSTALLS = """
import os, subprocess, sys
install = ["install", "--disable-pip-version-check", "--no-index", "--find-links", sys.argv[1]]
subprocess.check_call([sys.executable, "-m", "pip", *install, "app"])
import app, below
print("needs", below.VERSION)
assert os.system("pip " + " ".join(install) + " --upgrade base") == 0
print("upgraded", subprocess.check_output([sys.executable, "-c", "import base; print(base.VERSION)"]).decode())
"""
LACKS = """
import base
try:
    import app
except ImportError:
    print("no app,", base.VERSION)
"""


@pytest.mark.parametrize("how", ["relocatable", "at-its-place"])
def test_what_a_script_installs_is_its_runs_own(workspace: Workspace, tmp_path: Path, home: Path, how: str) -> None:
    top = home.parent / how
    (top / "wheels").mkdir(parents=True)
    for name, version in (("base", "1.0"), ("base", "2.0"), ("below", "1.0"), ("below", "2.0")):
        make_wheel(top / "wheels", name, version)
    make_wheel(top / "wheels", "app", "1.0", needs=["below"])
    words = ["--relocatable"] if how == "relocatable" else []
    python = str(top / "env" / "bin" / "python")
    subprocess.run([find_uv(), "venv", "-q", *words, "--python", PYTHONS[0], str(top / "env")], check=True)
    ours = [str(top / "wheels" / f"{name}-1.0-py3-none-any.whl") for name in ("base", "below")]
    install = [find_uv(), "pip", "install", "-q", "--offline", "--no-index", "--no-deps", "--python", python]
    subprocess.run([*install, NEW[1], *ours], check=True)
    first = start(workspace, tmp_path / "first", INSTALLS, str(top / "wheels"), python=python)
    said = log_of(first, tmp_path)
    assert "needs 1.0" in said, "what is there already is not fetched again"
    assert "upgraded 2.0" in said
    assert "no app, 1.0" in log_of(start(workspace, tmp_path / "second", LACKS, python=python), tmp_path)


def test_datastore_that_a_script_is_given_is_read_and_not_written(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("kept")
    store = workspace.get_default_datastore()
    store.upload_files([str(tmp_path / "a.txt")], target_path="given", overwrite=True)
    script = (
        "import os, sys\nfrom azureml.core import Run\nrun = Run.get_context()\n"
        "run.log('text', open(os.path.join(sys.argv[1], 'a.txt')).read())\n"
        "try:\n    open(os.path.join(sys.argv[1], 'b.txt'), 'w')\n"
        "except PermissionError:\n    run.log('refused', 1)\n"
    )
    run = start(workspace, tmp_path / "source", script, store.path("given").as_mount())
    assert completed(run) == {"text": "kept", "refused": 1}


def test_output_that_leads_to_the_server_is_not_stored(workspace: Workspace, tmp_path: Path, home: Path) -> None:
    place = f"/tmp/{home.parent.name}-output"
    script = f"import os; os.rmdir({place!r}); os.symlink(os.environ['TEST_HOME'], {place!r})"
    store = workspace.get_default_datastore()
    output = OutputFileDatasetConfig("stolen", (store, "stolen"), source=place).as_upload()
    run = start(workspace, tmp_path / "source", script, output)
    run.wait_for_completion(raise_on_error=False)
    assert "leads elsewhere now" in str(run.get_details()["error"])
    assert store._list("stolen") == []


def test_folder_that_is_roots_is_no_output(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    output = OutputFileDatasetConfig("stolen", (store, "stolen"), source="/etc/runyard-test").as_upload()
    run = start(workspace, tmp_path / "source", "pass", output)
    run.wait_for_completion(raise_on_error=False)
    assert "cannot be made by the job's user" in str(run.get_details()["error"])
    assert not os.path.exists("/etc/runyard-test")


def test_folder_of_the_server_is_no_output(workspace: Workspace, tmp_path: Path, home: Path) -> None:
    for source in (home, home.parent, home / "datastores"):
        store = (workspace.get_default_datastore(), "s")
        output = OutputFileDatasetConfig("stolen", store, source=str(source)).as_upload()
        run = start(workspace, tmp_path / "source", "pass", output)
        run.wait_for_completion(raise_on_error=False)
        assert "is the server's own, or around it" in str(run.get_details()["error"])


def test_attempts_own_folder_is_the_jobs_where_the_script_works_and_nowhere_else(
    make_attempt: MakeAttempt,
) -> None:
    folder = make_attempt()
    folder.facts = replace(folder.facts, isolation=Isolation.USER, home_folder=str(folder.path.parents[2]))
    assert not folder.is_servers(str(folder.work / "made"))
    assert not folder.is_servers("/tmp/made")
    for path in (folder.path, folder.processes, folder.path / "bin", folder.work / ".." / "bin", Path("/")):
        assert folder.is_servers(str(path))


@pytest.mark.parametrize("mode", ["mount", "download"])
def test_file_that_is_closed_to_others_is_no_input(workspace: Workspace, tmp_path: Path, home: Path, mode: str) -> None:
    (home.parent / f"secret-{mode}").write_text("root's")
    (home.parent / f"secret-{mode}").chmod(0o600)
    for path, says in ((home / "token", "is the server's own"), (home.parent / f"secret-{mode}", "is closed to")):
        one = Dataset.File.from_files(str(path), validate=False).as_named_input("stolen")
        run = start(workspace, tmp_path / "source", "pass", getattr(one, f"as_{mode}")())
        run.wait_for_completion(raise_on_error=False)
        assert says in str(run.get_details()["error"])


def test_python_that_is_closed_to_others_is_said(workspace: Workspace, tmp_path: Path, home: Path) -> None:
    (home.parent / "closed").mkdir(mode=0o700)
    python = home.parent / "closed" / "python"
    python.symlink_to(PYTHONS[0])
    run = start(workspace, tmp_path / "source", "pass", python=str(python))
    run.wait_for_completion(raise_on_error=False)
    assert "may not be started by a job's user" in str(run.get_details()["error"])


def test_home_is_open_to_pass_through_and_no_more(workspace: Workspace, tmp_path: Path, home: Path) -> None:
    completed(start(workspace, tmp_path / "source", "pass"))
    found = {
        str(one.relative_to(home)): one.stat().st_mode & 0o077
        for top in (home, home / "cache")
        for one in top.iterdir()
        if one.stat().st_mode & 0o077
    }
    passed = dict.fromkeys(("cache", "cache/envs", "cache/kits", "runs"), 0o011)
    assert found.items() <= passed.items()


def test_id_is_kept_for_an_attempt_whose_runner_was_killed(
    make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_USER_IDS", "60590-60590")
    first, second = make_attempt(attempt=1), make_attempt(attempt=2)
    for one in (first, second):
        one.facts = replace(one.facts, server_file="there")
    killed = JobUser.take(first)
    os.close(killed._lock)
    with pytest.raises(ServiceException, match="All 1 user ids for jobs are in use"):
        JobUser.take(second)
    found = JobUser.find(first)
    assert found is not None
    assert found.number == 60590
    with pytest.raises(ServiceException, match="in use"):
        JobUser.take(second)
    found.close()
    assert JobUser.find(first) is None, "it is another's to take"
    JobUser.take(second).close()


def test_id_that_the_host_knows_by_a_name_is_nobodys(
    make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_attempt()
    folder.facts = replace(folder.facts, server_file="there")
    known = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setenv("RUNYARD_USER_IDS", f"{known}-{known}")
    with pytest.raises(ServiceException, match="in use"):
        JobUser.take(folder)


def test_server_says_that_its_jobs_have_users(workspace: Workspace) -> None:
    found = current_server().call("server_info")
    assert (found.isolation, found.isolation_problem) == (Isolation.USER, "")


BOMB = """
import os, resource, sys, time
from azureml.core import Run
Run.get_context().log("limit", resource.getrlimit(resource.RLIMIT_NPROC)[1])
begun = []
try:
    for _ in range(int(sys.argv[1]) + 100):
        begun.append(os.fork())
        if begun[-1] == 0:
            time.sleep(5)
            os._exit(0)
except OSError:
    pass
for pid in begun:
    os.waitpid(pid, 0)
Run.get_context().log("begun", len(begun))
"""


def test_user_of_a_job_has_no_more_processes_than_a_run_may(workspace: Workspace, tmp_path: Path) -> None:
    found = completed(start(workspace, tmp_path, BOMB, PROCESSES_MAX))
    assert PROCESSES_MAX <= found["limit"] <= PROCESSES_MAX + 50
    assert PROCESSES_MAX - 50 < found["begun"] <= found["limit"]
