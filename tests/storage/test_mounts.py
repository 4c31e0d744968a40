"""Inputs from a bucket and from a container: mounted read-only, cached, shared; what breaks is said."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.errors import UserErrorException
from tests.emulators.fault_proxy import DOWN, FaultProxy, start_fault_proxy
from tests.emulators.servers import S3, STORAGE, Azurite
from tests.faults.house import wait_until
from tests.own_server import log_of, own_server, submit_here

pytestmark = STORAGE

BIG = os.urandom(20 << 20)

LOOK = """
import errno, hashlib, os, sys
root = sys.argv[1]
print("mounted", os.path.ismount(root))
for parent, _, names in sorted(os.walk(root)):
    for name in sorted(names):
        path = os.path.join(parent, name)
        with open(path, "rb") as file:
            data = file.read()
        print(os.path.relpath(path, root), os.path.getsize(path) == len(data), hashlib.sha256(data).hexdigest()[:8])
try:
    open(os.path.join(root, "new"), "w")
    print("written")
except OSError as error:
    print("refused", errno.errorcode[error.errno])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mounts-home")


@pytest.fixture(scope="module")
def workspace(home: Path) -> Iterator[Workspace]:
    with own_server(home, RUNYARD_ALLOW_PRIVATE_URLS="1"):
        yield Workspace.create("storage", exist_ok=True)


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    with start_fault_proxy(s3.endpoint) as found:
        yield found


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").heal()


@pytest.fixture(scope="module")
def bucket(workspace: Workspace, s3: S3, proxy: FaultProxy) -> Any:
    """A datastore on S3, behind a network that can be broken."""
    s3.make_bucket("mounts")
    return Datastore.register(
        workspace, "bucket", "s3://mounts/below", endpoint=proxy.url, key=s3.key, secret=s3.secret
    )


@pytest.fixture(scope="module")
def container(workspace: Workspace, azurite: Azurite) -> Any:
    azurite.make_container("mounts")
    return Datastore.register_azure_blob_container(
        workspace, "container", "mounts/below", azurite.account_name, account_key=azurite.account_key,
        endpoint=azurite.endpoint,
    )  # fmt: skip


def _upload(store: Any, folder: Path, where: str, files: dict[str, bytes]) -> Any:
    for name, data in files.items():
        (folder / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "up" / name).write_bytes(data)
    store.upload(str(folder / "up"), target_path=where, overwrite=True, show_progress=False)
    return Dataset.File.from_files((store, where))


@pytest.mark.parametrize("kind", ["bucket", "container"])
def test_journey_from_upload_to_output_to_the_next_run(
    request: pytest.FixtureRequest, workspace: Workspace, tmp_path: Path, kind: str
) -> None:
    store = request.getfixturevalue(kind)
    dataset = _upload(store, tmp_path, "journey", {"deep/big.bin": BIG, "a b.txt": b"blank", "empty": b""})
    first = submit_here(workspace, tmp_path, LOOK, dataset.as_mount())
    log = log_of(first, tmp_path)
    assert first.status == "Completed", log
    assert "3 files, 20971525 bytes, mounted" in log
    lines = log.splitlines()
    for line in ("mounted True", "a b.txt True", "empty True", "deep/big.bin True", "refused EROFS"):
        assert any(one.startswith(line) for one in lines), log
    again = log_of(submit_here(workspace, tmp_path, LOOK, dataset.as_mount()), tmp_path)
    assert "mounted False" in again, "what is in the cache is linked"
    assert [one for one in again.splitlines() if "big.bin" in one] == [one for one in lines if "big.bin" in one]
    write = "import os, sys; [open(os.path.join(sys.argv[1], n), 'w').write(n) for n in ('x', 'y')]"
    output = OutputFileDatasetConfig("made", (store, "made/{run-id}")).register_on_complete("made-in-" + kind)
    maker = submit_here(workspace, tmp_path, write, output)
    maker.wait_for_completion()
    assert "2 files, 2 bytes, are in" in log_of(maker, tmp_path)
    made = Dataset.get_by_name(workspace, "made-in-" + kind)
    reader = submit_here(workspace, tmp_path, LOOK, made.as_named_input("made").as_download())
    assert "y True" in log_of(reader, tmp_path)


def test_network_that_breaks_in_the_middle_of_a_mount_is_outlived(
    workspace: Workspace, bucket: Any, proxy: FaultProxy, tmp_path: Path
) -> None:
    dataset = _upload(bucket, tmp_path, "cut", {"big.bin": BIG + b"cut"})
    proxy.cut_after(3 << 20, DOWN, times=3)
    log = log_of(submit_here(workspace, tmp_path, LOOK, dataset.as_mount()), tmp_path)
    assert "mounted True" in log
    assert "big.bin True" in log


def test_service_that_is_gone_is_an_error_of_the_read_and_a_sentence_in_the_log(
    workspace: Workspace, bucket: Any, proxy: FaultProxy, tmp_path: Path
) -> None:
    dataset = _upload(bucket, tmp_path, "gone", {"big.bin": BIG + b"gone"})
    script = (
        "import sys, os; sys.stdin; input_file = os.path.join(sys.argv[1], 'big.bin'); open(input_file, 'rb').read()"
    )
    dataset._ensure_saved(workspace)
    proxy.cut_after(1 << 20, DOWN)
    run = submit_here(workspace, tmp_path, script, dataset.as_mount())
    log = log_of(run, tmp_path)
    assert run.status == "Failed"
    assert "bucket/gone/big.bin cannot be read" in log
    assert "Input/output error" in log


#: Reads a file, tells it, and goes on when it may.
READS = """
import os, sys, time
name = os.path.join(sys.argv[1], "x")
print(open(name).read())
open(os.path.join(sys.argv[2], "read"), "w").close()
while not os.path.exists(os.path.join(sys.argv[2], "go")):
    time.sleep(0.02)
"""


def test_reader_outlives_the_end_of_the_process_that_serves_it(
    workspace: Workspace, home: Path, bucket: Any, tmp_path: Path
) -> None:
    dataset = _upload(bucket, tmp_path, "served", {"x": b"served"})
    script = (
        READS
        + """
try:
    open(name).read()
except OSError as error:
    print("error", error.errno)
"""
    )
    run = submit_here(workspace, tmp_path, script, dataset.as_mount(), str(tmp_path))
    wait_until((tmp_path / "read").exists, "the script has read")
    (served,) = [pid for pid, line in _processes() if "runyard.runner.mounted" in line and run.id in line]
    os.kill(served, signal.SIGKILL)
    (tmp_path / "go").touch()
    log = log_of(run, tmp_path)
    assert run.status == "Completed", log
    assert "served" in log
    assert re.search("error (103|107)", log), "ECONNABORTED or ENOTCONN, and no reader that waits for ever"
    sentence = "Input 'input': the process that served its mount was killed by signal 9 before the script had ended"
    assert sentence in log
    assert run.get_details()["warnings"][0]["message"].startswith(sentence)
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


def test_mount_is_gone_after_a_run_that_was_killed(
    workspace: Workspace, home: Path, bucket: Any, tmp_path: Path
) -> None:
    dataset = _upload(bucket, tmp_path, "killed", {"x": b"killed"})
    run = submit_here(workspace, tmp_path, READS, dataset.as_mount(), str(tmp_path))
    wait_until((tmp_path / "read").exists, "the script has read")
    os.kill(int(json.loads((home / "runs" / run.id / "1" / "runner.json").read_text())["pid"]), signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.status == "Failed"
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
    assert not [line for _, line in _processes() if "runner.mounted" in line and str(home) in line]


def _processes() -> list[tuple[int, str]]:
    """The processes of this host and their command lines."""
    listed = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [(int(line.split()[0]), line) for line in listed.splitlines()]


def test_dataset_is_mounted_in_the_client_for_as_long_as_it_is_wanted(
    workspace: Workspace, bucket: Any, tmp_path: Path
) -> None:
    (tmp_path / "here.txt").write_text("here")
    far = _upload(bucket, tmp_path, "client", {"deep/x.bin": BIG[:5_000_000], "y": b"y"})
    both = Dataset.File.from_files([str(tmp_path / "here.txt"), (bucket, "client")])
    with far.mount() as mounted:
        assert os.path.ismount(mounted.mount_point)
        assert (Path(mounted.mount_point) / "deep" / "x.bin").read_bytes() == BIG[:5_000_000]
        with pytest.raises(OSError, match="Read-only"):
            (Path(mounted.mount_point) / "new").write_text("x")
        point = mounted.mount_point
    assert not os.path.exists(point)
    given = tmp_path / "given"
    context = both.mount(str(given))
    context.start()
    assert (given / "here.txt").read_text() == "here"
    assert (given / "client" / "y").read_bytes() == b"y"
    with pytest.raises(UserErrorException, match="is not empty"):
        far.mount(str(given)).start()
    context.stop()
    assert list(given.iterdir()) == []


def test_client_without_fuse_gets_copies_and_one_that_is_killed_leaves_no_mount(
    workspace: Workspace, home: Path, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = _upload(bucket, tmp_path, "killed-client", {"y": b"y"})
    far.register(workspace, "for-a-killed-client", create_new_version=True)
    code = (
        "import os, signal; from runyard.azureml.core import Dataset, Workspace\n"
        "context = Dataset.get_by_name(Workspace.get('storage'), 'for-a-killed-client').mount(r'{}')\n"
        "context.start(); print(os.path.ismount(context.mount_point), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "point").mkdir()
    words = [sys.executable, "-c", code.format(tmp_path / "point")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "src"})
    assert done.stdout == "True\n", done.stderr
    wait_until(lambda: str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "the mount is gone")
    monkeypatch.setattr("runyard.runner.mount.DEVICE", "/dev/no-such-device")
    with far.mount() as mounted:
        assert not os.path.ismount(mounted.mount_point)
        assert (Path(mounted.mount_point) / "y").read_bytes() == b"y"
