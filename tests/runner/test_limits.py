"""Control groups of a job, in folders that stand in for the kernel's, and in the kernel's own where there are any."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.environments.control_groups import PROC, Group, Shares, make_group, processes_max, remove_group, why_not
from runyard.protocol.plan import Isolation
from runyard.runner.folder import host_name_of
from runyard.runner.processes import descendants
from tests.faults.house import wait_until
from tests.own_server import log_of, own_server, submit_here

MANY = 1 << 30
#: Of a group of version 2, by what it controls.
FILES = {"memory": ("memory.max", "memory.swap.max"), "pids": ("pids.max",), "cpu": ("cpu.weight", "cpu.max")}


class Host:
    """Files as a kernel shows them to a process of the group "own"."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.proc = top / "proc"
        self.proc.mkdir()

    def show(self, groups: str, *mounts: str) -> None:
        (self.proc / "cgroup").write_text(groups)
        lines = [f"{number} 1 0:{number} {mount}" for number, mount in enumerate(mounts, 30)]
        (self.proc / "mountinfo").write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/vda rw", *lines]) + "\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A kernel makes a group's files with its folder; what is written into one of version 2 is watched below."""
    found = Host(tmp_path)
    mkdir = Path.mkdir

    def make(folder: Path, *arguments: object, **options: bool) -> None:
        mkdir(folder, *arguments, **options)  # type: ignore[arg-type]
        offered = folder.parent / "cgroup.subtree_control"
        controllers = offered.read_text().split() if offered.is_file() else []
        for controller in controllers:
            for name in FILES[controller]:
                (folder / name).touch()

    def remove(folder: Path) -> None:
        for one in folder.iterdir():
            one.unlink()
        rmdir(folder)

    rmdir = Path.rmdir
    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)
    return found


def texts(folder: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in folder.iterdir() if one.is_file()}


def made(top: Path) -> list[Path]:
    return [one for one in top.rglob("runyard-*") if one.is_dir()]


def test_group_of_version_2_is_made_as_near_as_its_limits_hold(host: Host) -> None:
    unified = host.top / "unified"
    (unified / "slice" / "own").mkdir(parents=True)
    (unified / "slice" / "cgroup.subtree_control").write_text("memory pids")
    # A group that has processes of its own takes nothing.
    (unified / "slice" / "own" / "cgroup.subtree_control").symlink_to("/dev/full")
    host.show("0::/slice/own\n", f"/ {unified} rw - cgroup2 cgroup2 rw")
    group = make_group(host_name_of("trial/1"), MANY, 100, host.proc)
    assert group is not None
    (folder,) = made(unified)
    assert folder.parent == unified / "slice"
    assert texts(folder) == {"memory.max": str(MANY), "memory.swap.max": "0", "pids.max": "100"}
    group.enter()
    assert (folder / "cgroup.procs").read_text() == "0"
    assert not group.is_out_of_memory()
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 0\n")
    assert not group.is_out_of_memory()
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.is_out_of_memory()
    remove_group(host_name_of("trial/1"), host.proc)
    assert not made(unified)


def test_group_of_version_1_is_made_in_each_hierarchy(host: Host) -> None:
    for name in ("memory", "pids"):
        (host.top / name / "own").mkdir(parents=True)
    host.show(
        "4:memory:/docker/x/own\n8:pids:/own\n0::/\n",
        f"/docker/x {host.top}/memory rw - cgroup cgroup rw,memory",
        f"/ {host.top}/pids rw - cgroup cgroup rw,pids",
    )
    group = make_group(host_name_of("trial/1"), MANY, 100, host.proc)
    assert group is not None
    memory, pids = made(host.top / "memory")[0], made(host.top / "pids")[0]
    assert (memory.parent, pids.parent) == (host.top / "memory" / "own", host.top / "pids" / "own")
    assert texts(memory) == {"memory.limit_in_bytes": str(MANY)}
    assert texts(pids) == {"pids.max": "100"}
    group.enter()
    assert texts(memory)["tasks"] == texts(pids)["tasks"] == "0"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert group.is_out_of_memory()
    remove_group(host_name_of("trial/1"), host.proc)
    assert not made(host.top)


def test_shares_of_processors_and_memory_are_told_to_version_2(host: Host) -> None:
    unified = host.top / "unified"
    unified.mkdir()
    (unified / "cgroup.subtree_control").write_text("cpu memory pids")
    host.show("0::/\n", f"/ {unified} rw - cgroup2 cgroup2 rw")
    assert make_group(host_name_of("trial/1"), MANY, 100, host.proc, Shares(2.5, 0.25, 5_000)) is not None
    (folder,) = made(unified)
    assert texts(folder) == {
        "memory.max": str(MANY), "memory.swap.max": "0", "memory.low": "5000", "pids.max": "100",
        "cpu.weight": "250", "cpu.max": "25000 100000",
    }  # fmt: skip


def test_shares_of_processors_and_memory_are_told_to_version_1(host: Host) -> None:
    for name in ("memory", "pids", "cpu"):
        (host.top / name).mkdir()
    host.show(
        "4:memory:/\n8:pids:/\n1:cpu,cpuacct:/\n0::/\n",
        *(f"/ {host.top}/{one} rw - cgroup cgroup rw,{one}" for one in ("memory", "pids", "cpu")),
    )
    group = make_group(host_name_of("trial/1"), MANY, 100, host.proc, Shares(2.5, 0.25, 5_000))
    assert group is not None
    told = {name: text for folder in made(host.top) for name, text in texts(folder).items()}
    assert told == {
        "memory.limit_in_bytes": str(MANY), "memory.soft_limit_in_bytes": "5000", "pids.max": "100",
        "cpu.shares": "2560", "cpu.cfs_quota_us": "25000",
    }  # fmt: skip
    group.enter()
    assert [(folder / "tasks").read_text() for folder in made(host.top)] == ["0"] * 3
    remove_group(host_name_of("trial/1"), host.proc)
    assert not made(host.top)


def test_least_share_is_the_kernels(host: Host) -> None:
    (host.top / "cpu").mkdir()
    host.show("1:cpu:/\n", f"/ {host.top}/cpu rw - cgroup cgroup rw,cpu")
    assert make_group(host_name_of("trial/1"), None, None, host.proc, Shares(0.000_1, 0.000_1)) is not None
    (folder,) = made(host.top)
    assert texts(folder) == {"cpu.shares": "2", "cpu.cfs_quota_us": "1000"}


def can_limit_processors() -> bool:
    """By a group that is taken away at once."""
    found = make_group(host_name_of("try-cpu"), None, None, shares=Shares(cores_max=1))
    remove_group(host_name_of("try-cpu"))
    return found is not None


@pytest.mark.skipif(not can_limit_processors(), reason="on this host this user may make no group of processors")
def test_process_has_no_more_of_the_processors_than_it_may(tmp_path: Path) -> None:
    group = make_group(host_name_of(str(tmp_path)), None, None, shares=Shares(1, 0.2))
    assert group is not None
    code = "import time\nbegan = time.monotonic()\nwhile time.monotonic() < began + 2: pass\nprint(time.process_time())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, preexec_fn=group.enter, check=True
    )
    assert group.remove(1)
    assert 0.05 < float(done.stdout) < 0.8, "a fifth of two seconds, and something for its start"


def test_thread_goes_into_a_group_only_where_it_finds_its_way_back(host: Host) -> None:
    own = host.top / "pids" / "own"
    own.mkdir(parents=True)
    host.show("8:pids:/own\n", f"/ {host.top}/pids rw - cgroup cgroup rw,pids")
    group = make_group(host_name_of("trial/1"), None, 100, host.proc)
    assert group is not None
    (folder,) = made(host.top)
    with group.around() as is_inside:
        assert (is_inside, "tasks" in texts(folder)) == (False, False)
    (own / "tasks").touch()
    with group.around() as is_inside:
        assert (is_inside, texts(folder)["tasks"], texts(own)["tasks"]) == (True, "0", "")
    assert texts(own)["tasks"] == "0"


@pytest.mark.parametrize("groups", ["", "0::/\n", "4:memory:/\n", "4:memory:/own\n0::/own\n"])
def test_host_without_groups_has_none(host: Host, groups: str) -> None:
    host.show(groups)
    assert make_group(host_name_of("trial/1"), MANY, 100, host.proc) is None
    assert "no control group" in why_not(host.proc)


def test_nothing_is_left_where_only_one_limit_can_be_had(host: Host) -> None:
    (host.top / "memory").mkdir()
    host.show("4:memory:/\n8:pids:/\n", f"/ {host.top}/memory rw - cgroup cgroup rw,memory")
    assert make_group(host_name_of("trial/1"), MANY, 100, host.proc) is None
    assert not made(host.top)
    assert make_group(host_name_of("trial/1"), MANY, None, host.proc) is not None


def test_no_limit_needs_no_group(host: Host) -> None:
    host.show("")
    assert make_group(host_name_of("trial/1"), None, None, host.proc) is None


REAL = pytest.mark.skipif(bool(why_not()), reason=f"on this host {why_not()}")
GREEDY = "x = []\nwhile True:\n    x.append(bytearray(8 << 20))"
FORKS = "import subprocess\nfor _ in range(60):\n    subprocess.Popen(['sleep', '1'])"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    found = make_group(host_name_of(str(tmp_path)), 128 << 20, 40, PROC)
    assert found is not None
    yield found
    left = [one for one in found._folders.values() if one.exists()]
    assert left
    while any(one.exists() for one in left):
        # Children of the forks end by themselves.
        remove_group(host_name_of(str(tmp_path)))


@REAL
def test_kernel_ends_what_takes_too_much_memory(group: Group) -> None:
    modest = subprocess.run([sys.executable, "-c", "bytearray(8 << 20)"], preexec_fn=group.enter, check=False)
    assert (modest.returncode, group.is_out_of_memory()) == (0, False)
    greedy = subprocess.run([sys.executable, "-c", GREEDY], preexec_fn=group.enter, check=False)
    assert (greedy.returncode, group.is_out_of_memory()) == (-9, True)


@REAL
def test_kernel_lets_no_more_processes_begin(group: Group) -> None:
    limited = subprocess.run(
        [sys.executable, "-c", FORKS], preexec_fn=group.enter, capture_output=True, text=True, check=False
    )
    assert "Resource temporarily unavailable" in limited.stderr


@REAL
@pytest.mark.e2e
@pytest.mark.xdist_group("limits")
@pytest.mark.parametrize("isolation", [Isolation.HIDDEN, Isolation.TRUSTED])
def test_run_that_takes_more_than_its_node_has_is_told_so(tmp_path: Path, isolation: str) -> None:
    if isolation == Isolation.HIDDEN and shutil.which("bwrap") is None:
        pytest.skip("tests/system-packages.sh installs bubblewrap")
    with own_server(tmp_path / "home", RUNYARD_ISOLATION=isolation):
        workspace = Workspace.create("strict", tags={"compute": "strict"})
        config = AmlCompute.provisioning_configuration(vm_size="Standard_A1_v2", max_nodes=1)
        ComputeTarget.create(workspace, "small", config).wait_for_completion()
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "train.py").write_text(GREEDY)
        environment = Environment("as-it-is")
        environment.python.user_managed_dependencies = True
        asked = ScriptRunConfig(str(tmp_path / "source"), "train.py", compute_target="small", environment=environment)
        run = Experiment(workspace, "limits").submit(asked)
        run.wait_for_completion(raise_on_error=False)
        assert run.get_status() == "Failed"
        assert "'train.py' used more than 2 GiB of memory" in str(run.get_details()["error"])


def can_limit_processes() -> bool:
    """By a group that is taken away at once."""
    found = make_group(host_name_of("try"), None, 100)
    remove_group(host_name_of("try"))
    return found is not None


PIDS = pytest.mark.skipif(not can_limit_processes(), reason="on this host this user may make no group of processes")
#: Begins some others, says so, and goes on.
FAMILY = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        time.sleep(60)
print(".", flush=True)
time.sleep(60)
"""
#: Tries to have many more than it may, from its first moment on; all of them end by themselves.
BOMB = """
import os, time
# Where it does not begin in its group, it is brought there beside its start, with what it has begun before that.
ends_at = time.monotonic() + 10
while "runyard-" not in open("/proc/self/cgroup").read() and time.monotonic() < ends_at:
    time.sleep(0.01)
begun = []
try:
    for _ in range(400):
        begun.append(os.fork())
        if begun[-1] == 0:
            time.sleep(3)
            os._exit(0)
finally:
    print("there were", len(begun), flush=True)
    for pid in begun:
        os.waitpid(pid, 0)
"""


@PIDS
def test_process_begins_in_its_group_and_its_thread_is_back(tmp_path: Path) -> None:
    name, before = host_name_of(str(tmp_path)), PROC.joinpath("cgroup").read_text()
    group = make_group(name, None, 20)
    assert group is not None
    with group.around() as is_inside:
        begun = subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True)
    assert PROC.joinpath("cgroup").read_text() == before
    assert is_inside == (group._version == 1)
    assert (f"/{name}\n" in begun.stdout) == is_inside
    assert group.remove()


@PIDS
def test_process_is_brought_into_a_group_with_what_it_has_started(tmp_path: Path) -> None:
    group = make_group(host_name_of(str(tmp_path)), None, 20)
    assert group is not None
    code = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        time.sleep(60)\nprint('.', flush=True)\n"
    )
    script = subprocess.Popen([sys.executable, "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE)
    assert script.stdout is not None
    try:
        script.stdout.read(1)
        family = {script.pid, *descendants(script.pid)}
        group.take(script.pid, descendants)
        assert group._inside() == family
        assert len(family) == 4
    finally:
        for pid in sorted(family, reverse=True):
            os.kill(pid, signal.SIGKILL)
        script.communicate()
        wait_until(lambda: remove_group(host_name_of(str(tmp_path))) or not group._inside(), "its group is gone")


@pytest.mark.parametrize(
    ("asked", "numbers", "found"), [(None, "32768", 8192), (None, "4194304", 16384), (0, "", None)]
)
def test_run_has_a_part_of_what_its_host_can_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, numbers: str, found: int | None
) -> None:
    (tmp_path / "pid_max").write_text(numbers + "\n")
    monkeypatch.setattr("runyard.environments.control_groups._NUMBERS", tmp_path / "pid_max")
    assert processes_max(asked) == found


@pytest.fixture(scope="module", params=[Isolation.HIDDEN, Isolation.TRUSTED])
def bounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The workspace of a server whose runs may have few processes."""
    if request.param == Isolation.HIDDEN and shutil.which("bwrap") is None:
        pytest.skip("tests/system-packages.sh installs bubblewrap")
    home = tmp_path_factory.mktemp("bounded") / "home"
    with own_server(home, RUNYARD_ISOLATION=request.param, RUNYARD_PROCESSES_MAX="60"):
        yield Workspace.create("bounded")


@PIDS
@pytest.mark.e2e
@pytest.mark.xdist_group("limits")
def test_run_that_wants_too_many_processes_gets_no_more_and_is_told_so(bounded: Workspace, tmp_path: Path) -> None:
    run = submit_here(bounded, tmp_path, BOMB)
    said = log_of(run, tmp_path)
    assert run.get_status() == "Failed"
    assert 50 < int(said.split("there were ")[1].split()[0]) <= 60
    error = run.get_details()["error"]["error"]["message"]
    assert error == "'script.py' wanted more than the 60 processes and threads that it may have at once on a node."
    name = host_name_of(f"{run.id}/1 {os.environ['RUNYARD_HOME']}/runs/{run.id}/1")
    wait_until(lambda: not list(Path("/sys/fs/cgroup").rglob(name)), "its group is gone")


#: Daemons that carry nothing of the run's, ignore TERM, and are replaced all the time; they give up after a while.
DAEMONS = """
import os, signal, sys, time
ends_at = time.monotonic() + 40
open(sys.argv[1], "w").close()
for _ in range(40):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while time.monotonic() < ends_at:
            try:
                if os.fork():
                    os._exit(0)
                os.setsid()
            except OSError:
                pass
        os._exit(0)
time.sleep(60)
"""


@PIDS
@pytest.mark.e2e
@pytest.mark.xdist_group("limits")
def test_no_daemon_is_left_of_a_run_that_starts_them_faster_than_they_are_found(
    bounded: Workspace, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    run = submit_here(bounded, tmp_path, DAEMONS, str(up), RUNYARD_GRACE_SECONDS="1")
    wait_until(up.exists, "it has begun")
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    wait_until(lambda: not of_script(str(up)), "nothing is left", 5)


def of_script(word: str) -> list[int]:
    """Processes with that word on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found
