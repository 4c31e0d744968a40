"""What happens to runs on a machine over SSH that is cut off, loses processes, or no longer lets the server in."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from glob import glob
from pathlib import Path

import pytest

from runyard.azureml.core import Run
from runyard.azureml.core.compute import ComputeTarget, RemoteCompute
from runyard.compute.remote import Reach
from runyard.compute.ssh import list_warnings, observation
from runyard.compute.ssh_line import Door, ssh_words
from runyard.errors import ComputeTargetException
from runyard.protocol.compute import EngineKind, EngineSpec
from runyard.protocol.plan import Observation
from runyard.protocol.wire import dumps
from runyard.sdk.session import current_server
from tests.engines.engines import Engine, make_engine, ssh_settings, wait_until, with_prefix
from tests.engines.sshd import SSHD, SshMachine, make_key
from tests.own_server import log_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), *SSHD]

#: What gives a process another clock.
FAKED = glob("/usr/lib/*/faketime/libfaketime.so.1")
#: A target of the same machine whose runs start again.
LOW = "low"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("ssh", tmp_path_factory.mktemp("faults")) as found:
        assert found.ssh is not None
        config = ssh_settings(found.ssh, found.node_folder, vm_priority="lowpriority")
        ComputeTarget.attach(found.workspace, LOW, config)
        yield found


@pytest.fixture
def machine(engine: Engine) -> SshMachine:
    assert engine.ssh is not None
    return engine.ssh


def waits(go: Path) -> str:
    """A script that ends once that file is there."""
    return f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"


def supervisor_of(engine: Engine, run: Run) -> int:
    """The process on the machine that supervises the run's runner."""
    return int(Path(f"/proc/{engine.runner_pid(run)}/stat").read_text().rpartition(")")[2].split()[1])


def test_run_ends_without_the_connection_and_the_next_waits_for_it(
    engine: Engine, machine: SshMachine, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = engine.submit(tmp_path, waits(go))
    wait_until(lambda: run.get_status() == "Running", "it runs")
    machine.kill()
    try:
        go.touch()
        run.wait_for_completion()
        late = engine.submit(tmp_path, "print('late')")
        gone = engine.submit(tmp_path, "print('never')")
        said = f"Waits for its compute target to answer: root@{machine.address}:2222 cannot be reached: "
        wait_until(lambda: said in engine.why(late), "it says what it waits for")
        gone.cancel()
        gone.wait_for_completion(raise_on_error=False)
        assert gone.get_status() == "Canceled"
    finally:
        machine.start()
    late.wait_for_completion()


def test_run_that_the_machine_has_not_heard_of_is_canceled_without_it(
    engine: Engine, machine: SshMachine, tmp_path: Path
) -> None:
    machine.kill()
    try:
        run = engine.submit(tmp_path, "print('never')")
        wait_until(lambda: "Waits for its compute target to answer" in engine.why(run), "it waits for the machine")
        run.cancel()
        run.wait_for_completion(raise_on_error=False)
        assert run.get_status() == "Canceled"
    finally:
        machine.start()


def test_run_goes_on_through_a_cut_network(engine: Engine, machine: SshMachine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = engine.submit(tmp_path, waits(go), compute_target=LOW)
    wait_until(lambda: run.get_status() == "Running", "it runs")
    supervisor = supervisor_of(engine, run)
    machine.cut()
    try:
        wait_until(lambda: run.get_status() == "NotResponding", "it is missed", 90)
        assert "Its runner was not heard of for" in engine.why(run)
        # Its record is complete only once there is a way to the server again.
        go.touch()
    finally:
        machine.mend()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1
    assert log_of(run, tmp_path) == "up\n"
    wait_until(lambda: not Path(f"/proc/{supervisor}").exists(), "the supervisor ends")
    assert engine.is_clean(run)


def test_runner_without_its_supervisor_completes_its_run(engine: Engine, machine: SshMachine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = engine.submit(tmp_path, waits(go), compute_target=LOW)
    wait_until(lambda: run.get_status() == "Running", "it runs")
    os.kill(supervisor_of(engine, run), signal.SIGKILL)
    first = engine.submit(tmp_path, "print('looked at since')")
    first.wait_for_completion()
    go.touch()
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 1


@pytest.mark.parametrize("target", ["there", LOW])
def test_run_whose_processes_are_killed_is_told_or_starts_again(
    engine: Engine, machine: SshMachine, tmp_path: Path, target: str
) -> None:
    script = "import os, time\nif os.environ['AZUREML_RUN_ATTEMPT'] == '1':\n    time.sleep(1000)\n"
    run = engine.submit(tmp_path, script, compute_target=target)
    wait_until(lambda: run.get_status() == "Running", "it runs")
    assert list(with_prefix("RUNYARD_KEY", f"{run.id}/1 "))
    os.kill(supervisor_of(engine, run), signal.SIGKILL)
    os.kill(engine.runner_pid(run), signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    wait_until(lambda: not list(with_prefix("RUNYARD_KEY", f"{run.id}/1 ")), "nothing of it goes on")
    if target == LOW:
        assert (run.get_status(), run.get_details()["attempt"]) == ("Completed", 2)
    else:
        message = run.get_details()["error"]["error"]["message"]
        start = f"Its compute target lost it in attempt 1. Its processes on root@{machine.address} ended"
        assert (run.get_status(), message[: len(start)]) == ("Failed", start)


def test_runner_that_does_not_listen_is_replaced_to_cancel_its_run(engine: Engine, tmp_path: Path) -> None:
    run = engine.submit(tmp_path, "import time\nopen('outputs/kept', 'w').write('x')\ntime.sleep(1000)")
    wait_until(lambda: run.get_status() == "Running", "it runs")
    os.kill(engine.runner_pid(run), signal.SIGSTOP)
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    assert "outputs/kept" in run.get_file_names()
    wait_until(lambda: engine.is_clean(run), "nothing is left")


def test_node_can_be_taken_away(engine: Engine, tmp_path: Path) -> None:
    script = "import os, time\nif os.environ['AZUREML_RUN_ATTEMPT'] == '1':\n    time.sleep(1000)\n"
    run = engine.submit(tmp_path, script, compute_target=LOW)
    wait_until(lambda: run.get_status() == "Running", "it runs")
    place = {"workspace": engine.workspace.name, "name": LOW}
    (node,) = current_server().call("get_cluster", **place).nodes
    current_server().call("remove_node", None, {"evict": 1}, node=node.id.rpartition("/")[2], **place)
    run.wait_for_completion()
    assert run.get_details()["attempt"] == 2


def test_machine_that_no_longer_lets_the_server_in_is_waited_for(
    engine: Engine, machine: SshMachine, tmp_path: Path
) -> None:
    """Its key is not admitted any more, then it is; its host key is another one, then it is the old one again."""
    hidden = tmp_path / "host_key"
    machine.kill()
    try:
        machine.admit(make_key(tmp_path / "other"))
        machine.start()
        run = engine.submit(tmp_path, "print('in')")
        wait_until(lambda: "does not let this server in with that key" in engine.why(run), "it says what is wrong")
        machine.kill()
        machine.admit(machine.key)
        shutil.copy(machine.folder / "host_key", hidden)
        make_key(machine.folder / "host_key")
        machine.start()
        wait_until(lambda: "is not the one that it had when this server first saw it" in engine.why(run), "it tells")
        machine.kill()
        shutil.copy(hidden, machine.folder / "host_key")
    finally:
        machine.start()
    run.wait_for_completion()


def test_what_cannot_be_attached_is_told(engine: Engine, machine: SshMachine, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    locked = make_key(tmp_path / "locked", "a passphrase")
    (tmp_path / "public").write_text(Path(f"{other}.pub").read_text())
    (tmp_path / "torn").write_text("\n".join(other.read_text().split("\n")[:3]))
    for settings, said in (
        ({"private_key_file": str(other)}, f"root@{machine.address}:2222 does not let this server in with that key"),
        ({"private_key_file": str(locked)}, "check the user's name, the key and its passphrase"),
        ({"private_key_file": str(locked), "private_key_passphrase": "no"}, "the key and its passphrase"),
        ({"private_key_file": str(tmp_path / "torn")}, "cannot be read: give the key that ssh itself takes"),
        ({"private_key_file": str(tmp_path / "none")}, "cannot be read: No such file"),
        ({"private_key_file": str(tmp_path / "public")}, "holds no private key"),
        ({"private_key_file": None}, "with a private_key_file or a password"),
        ({"private_key_file": None, "password": "wrong"}, "does not let this server in with that password"),
        ({"ssh_port": 2223}, "cannot be reached: .*Connection refused"),
        ({"ssh_port": "x"}, "a number from 1 to 65535"),
        ({"address": "-oProxyCommand=touch /tmp/x"}, "its name or number"),
        ({"address": "a b"}, "its name or number"),
        ({"username": "-x"}, "that of an account"),
        ({"resource_id": "/subscriptions/1", "address": None}, "means nothing here; give its address"),
    ):
        asked = {
            "username": machine.username, "address": machine.address, "ssh_port": machine.port,
            "private_key_file": str(machine.key), **settings,
        }  # fmt: skip
        with pytest.raises(ComputeTargetException, match=said):
            ComputeTarget.attach(engine.workspace, "wrong", RemoteCompute.attach_configuration(**asked))
    assert "wrong" not in engine.workspace.compute_targets


def test_key_with_a_passphrase_is_used_and_neither_is_ever_given_out(
    engine: Engine, machine: SshMachine, tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "locked", "Sesame-7531")
    with (machine.folder / "authorized_keys").open("a") as file:
        file.write(Path(f"{locked}.pub").read_text())
    asked = ssh_settings(
        machine, engine.node_folder, private_key_file=str(locked), private_key_passphrase="Sesame-7531"
    )
    target = ComputeTarget.attach(engine.workspace, "locked", asked)
    again = ComputeTarget.attach(engine.workspace, "locked", asked)
    assert (target.type, again.address, again.username) == ("VirtualMachine", machine.address, machine.username)
    engine.submit(tmp_path, "print('in')", compute_target="locked").wait_for_completion()
    names = {"workspace": engine.workspace.name}
    found = [current_server().call("get_cluster", name="locked", **names)]
    found += current_server().call("list_clusters", **names)
    shown = "".join(map(dumps, found)) + repr(target.serialize())
    secrets = ["Sesame-7531", *locked.read_text().split("\n")[1:4], *machine.key.read_text().split("\n")[1:4]]
    kept = b"".join(path.read_bytes() for path in engine.home.rglob("*") if path.is_file())
    for secret in secrets:
        assert secret not in shown
        assert secret.encode() not in kept
    assert "secrets" not in repr(target.settings)
    with pytest.raises(ComputeTargetException, match="stays with the server"):
        target.get_credentials()
    target.detach()


def test_machine_is_attached_at_the_command_line(engine: Engine, machine: SshMachine) -> None:
    settings = {
        "address": machine.address, "username": machine.username, "ssh_port": machine.port,
        "private_key_file": machine.key, "vm_priority": "lowpriority",
    }  # fmt: skip
    pairs = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    words = [sys.executable, "-m", "runyard.cli", "compute", "attach", "typed", "ssh", *pairs]
    subprocess.run([*words, "--workspace", engine.workspace.name], check=True, capture_output=True)
    target = RemoteCompute(engine.workspace, "typed")
    assert target._record.spec.vm_priority == "lowpriority"
    assert target.settings == {
        "address": machine.address, "username": machine.username, "ssh_port": str(machine.port)
    }  # fmt: skip
    target.delete()


def test_machine_that_does_not_reach_the_server_is_told_of(machine: SshMachine, tmp_path: Path) -> None:
    settings = {"address": machine.address, "username": machine.username, "ssh_port": str(machine.port)}
    spec = EngineSpec(EngineKind.SSH, settings, {"private_key": machine.key.read_text()})
    reach = Reach(
        lambda: "http://127.0.0.1:9", tmp_path, "mark", "trusted", tmp_path / "known_hosts",
        lambda text, place: text, lambda text, place: text,
    )  # fmt: skip
    (problem,) = list_warnings(spec, reach)
    assert problem.startswith(f"{machine.address} does not reach this server at http://127.0.0.1:9 (")
    assert "RUNYARD_PUBLIC_URL" in problem


def test_restarted_machine_has_lost_its_runs() -> None:
    seen = {"state": "gone", "why": "restarted", "said": "", "log": "/x"}
    assert observation("a/1", seen, "me@gpu7") == Observation(
        "a/1", "gone", "me@gpu7 was restarted.", is_node_lost=True
    )


def test_password_is_on_no_command_line_and_in_no_variable(tmp_path: Path) -> None:
    door = Door("gpu7", 22, "me", tmp_path / "known", {"password": 'it\'s "open"'}, "", "mark")
    with ExitStack() as held:
        words, variables = ssh_words(door, held)
        said = subprocess.run([variables["SSH_ASKPASS"]], env=variables, capture_output=True, text=True, check=True)
    assert said.stdout == 'it\'s "open"\n'
    assert "it's" not in repr((words, variables))
    assert "BatchMode=yes" not in words


@pytest.mark.skipif(not FAKED, reason="tests/system-packages.sh installs faketime")
@pytest.mark.parametrize("skew", ["+1h", "-1h"])
def test_clock_of_a_node_may_be_an_hour_off(engine: Engine, machine: SshMachine, tmp_path: Path, skew: str) -> None:
    """What happened when is told by the server's clock; neither is a run taken for silent, nor its token for old."""
    machine.settings.append(f"SetEnv LD_PRELOAD={FAKED[0]} FAKETIME={skew}")
    machine.kill()
    machine.start()
    go, began = tmp_path / "go", time.time()
    script = "from azureml.core import Run\nRun.get_context().log('a', 1)\nopen('outputs/a', 'w').close()\n" + waits(go)
    try:
        run = engine.submit(tmp_path, script)
        wait_until(lambda: run.get_status() == "Running", "it runs")
        runners = {engine.runner_pid(run)}
        assert all("libfaketime" in Path(f"/proc/{pid}/maps").read_text() for pid in runners)
        wait_until(lambda: run.get_metrics() == {"a": 1}, "its metrics come while it runs")
        go.touch()
        run.wait_for_completion()
    finally:
        machine.settings.clear()
        machine.kill()
        machine.start()
    record = run._refresh()
    assert began - 5 < record.created_at / 1e6 <= record.started_at / 1e6 <= record.ended_at / 1e6 < time.time() + 5
    assert record.attempt == 1
    assert "outputs/a" in run.get_file_names()
