"""Files of runs in a bucket and in a container: submitted, stored, registered and downloaded; real servers and runs."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Experiment, Model, Run, ScriptRunConfig, Workspace
from runyard.client import direct
from runyard.client.home import read_server_file, server_file
from runyard.client.local_server import connect
from runyard.errors import RunyardError, ServiceException
from runyard.protocol.blobs import DigestList
from runyard.sdk.session import current_server, forget_server
from tests.emulators.fault_proxy import DOWN, UP, FaultProxy, start_fault_proxy
from tests.emulators.servers import S3, STORAGE, Azurite

pytestmark = STORAGE

#: Writes outputs of every size: a small one, many small ones, a middle one, and one of three parts.
SCRIPT = """
import hashlib, os, sys
print(sorted(os.listdir("data")), len(open("data/big.bin", "rb").read()))
print([name for name, text in os.environ.items() if "canary" in text or "Eby8vdM02xNOcqFlqUwJP" in text])
os.makedirs("outputs/many", exist_ok=True)
for number in range(300):
    open("outputs/many/%d.txt" % number, "w").write(str(number))
open("outputs/middle.bin", "wb").write(bytes(range(256)) * 4000)
block = hashlib.sha256(sys.argv[1].encode()).digest() * 32768
open("outputs/large.bin", "wb").write(block * 18 + b"end")
"""


class Place:
    """A home whose files lie in a bucket, behind a proxy that can fail."""

    def __init__(self, store: str, variables: dict[str, str], proxy: FaultProxy, home: Path, secret: str) -> None:
        self.store, self.variables, self.proxy, self.home, self.secret = store, variables, proxy, home, secret

    @property
    def pid(self) -> int:
        return int((read_server_file(server_file(self.home)) or {})["pid"])

    def stop(self) -> None:
        """Stop the server, as ``runyard down`` does."""
        assert _runyard("down")[0] == 0
        forget_server()


def _runyard(*words: str) -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    ended = subprocess.run([sys.executable, "-m", "runyard.cli", *words], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(params=["s3", "azure"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    name = "journey-" + os.urandom(4).hex()
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        s3.make_bucket(name)
        endpoint, store, secret = s3.endpoint, f"s3://{name}/team", "canary-of-s3"
        variables = {"AWS_ACCESS_KEY_ID": "canary-key", "AWS_SECRET_ACCESS_KEY": secret}
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        azurite.make_container(name)
        endpoint, store, secret = azurite.endpoint, f"az://{name}/team", azurite.account_key
        variables = {"AZURE_STORAGE_ACCOUNT": azurite.account_name, "AZURE_STORAGE_KEY": secret}
    with start_fault_proxy(endpoint) as proxy:
        variables["RUNYARD_STORE_ENDPOINT"] = proxy.url
        home = tmp_path / "home"
        monkeypatch.setenv("RUNYARD_HOME", str(home))
        monkeypatch.setattr(direct, "_shunned", {})
        for key, value in variables.items():
            monkeypatch.setenv(key, value)
        forget_server()
        made = Place(store, variables, proxy, home, secret)
        code, said = _runyard("up", "--store", store)
        assert code == 0, said
        # Whoever comes later has no such variables: the home knows.
        for key in [*variables, "RUNYARD_STORE"]:
            monkeypatch.delenv(key, raising=False)
        yield made
        proxy.heal()
        made.stop()


def _source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "write.py").write_text(SCRIPT)
    (folder / "data" / "big.bin").write_bytes(bytes(range(256)) * (9 << 12))
    for number in range(100):
        (folder / "data" / f"{number}.txt").write_text(f"file {number}")
    return folder


def _submit(tmp_path: Path, word: str = "one") -> Run:
    environment = Environment("here")
    environment.python.user_managed_dependencies = True
    source = tmp_path / "source" if (tmp_path / "source").exists() else _source(tmp_path)
    config = ScriptRunConfig(str(source), script="write.py", arguments=[word], environment=environment)
    return Experiment(Workspace.create("store", exist_ok=True), "files").submit(config)


def _large(word: str = "one") -> bytes:
    return hashlib.sha256(word.encode()).digest() * 32768 * 18 + b"end"


def _objects(place: Place) -> list[str]:
    """The bucket's keys, as the catalog knows them."""
    with sqlite3.connect(place.home / "catalog" / "catalog.db") as connection:
        return [row[0] for row in connection.execute("SELECT DISTINCT pack FROM contents WHERE pack != ''")]


def test_a_run_lives_in_the_bucket(place: Place, tmp_path: Path) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    assert run.get_status() == "Completed"
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log.txt"))
    said = (tmp_path / "log.txt").read_text()
    assert "9437184" in said
    assert "[]" in said.splitlines()
    run.download_file("outputs/large.bin", str(tmp_path / "large.bin"))
    assert (tmp_path / "large.bin").read_bytes() == _large()
    run.download_files("outputs/many", str(tmp_path / "many"))
    assert len(list((tmp_path / "many").rglob("*.txt"))) == 300
    model = run.register_model("net", model_path="outputs/large.bin")
    path = Model(run.experiment.workspace, "net", version=model.version).download(str(tmp_path / "model"))
    assert Path(path).read_bytes() == _large()
    zipped = run.restore_snapshot(path=str(tmp_path / "snapshot"))
    assert Path(zipped).stat().st_size > 10_000
    # Some 700 small contents are a few objects.
    assert len(_objects(place)) < 10
    # Nothing of it lies on the server's disk, and no credential in clear.
    assert not (place.home / "store").exists()
    for file in place.home.rglob("*"):
        if file.is_file() and file.stat().st_size < 10_000_000:
            assert place.secret.encode() not in file.read_bytes(), file


def test_a_lost_disk_loses_no_file(place: Place, tmp_path: Path) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    place.stop()
    for path in (place.home / "catalog").iterdir():
        path.unlink()
    run = Run.get(Workspace.get("store"), run.id)
    run.download_file("outputs/large.bin", str(tmp_path / "large.bin"))
    assert (tmp_path / "large.bin").read_bytes() == _large()
    run.download_file("outputs/many/7.txt", str(tmp_path / "7.txt"))
    assert (tmp_path / "7.txt").read_text() == "7"
    # And an unchanged snapshot is known: nothing but the run's own is sent.
    again = _submit(tmp_path)
    again.wait_for_completion(show_output=False)
    assert again.get_status() == "Completed"


def test_bytes_go_past_the_server_and_through_it_where_they_must(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    path = tmp_path / "upload.bin"
    path.write_bytes(_large("two"))
    asked: list[str] = []
    ask = direct._ask
    monkeypatch.setattr(direct, "_ask", lambda *words: asked.append(words[0]) or ask(*words))  # type: ignore[func-returns-value]
    run.upload_file("extra/direct.bin", str(path))
    run.download_file("extra/direct.bin", str(tmp_path / "back.bin"))
    assert (asked.count("PUT"), asked.count("GET")) == (3, 3)
    assert (tmp_path / "back.bin").read_bytes() == _large("two")
    # From here on the place cannot be reached from this process.
    monkeypatch.setattr(direct, "_is_shunned", lambda _: True)
    path.write_bytes(_large("three"))
    run.upload_file("extra/through.bin", str(path))
    run.download_file("extra/through.bin", str(tmp_path / "back2.bin"))
    assert len(asked) == 6
    assert (tmp_path / "back2.bin").read_bytes() == _large("three")


def test_cut_connections_leave_no_short_file(place: Place, tmp_path: Path) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    path = tmp_path / "upload.bin"
    path.write_bytes(_large("cut"))
    place.proxy.cut_after(5_000_000, UP, times=3)
    run.upload_file("extra/cut.bin", str(path))
    for politely in (False, True):
        place.proxy.cut_after(5_000_000, DOWN, times=2, politely=politely)
        run.download_file("extra/cut.bin", str(tmp_path / f"back-{politely}.bin"))
        assert (tmp_path / f"back-{politely}.bin").read_bytes() == _large("cut")
    assert place.proxy.cuts == 7


def test_a_server_killed_in_the_middle_of_an_upload_goes_on(place: Place, tmp_path: Path) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    path = tmp_path / "upload.bin"
    path.write_bytes(_large("killed"))
    killed: list[int] = []

    def progress_kills(size: int) -> None:
        if not killed:
            killed.append(place.pid)
            os.kill(place.pid, signal.SIGKILL)

    server = current_server()
    digest = _digest(path)
    direct.send_parts(server, "store", digest, str(path), progress_kills)
    assert killed
    assert server.call("get_blob_address", workspace="store", digest=digest).size_bytes == len(_large("killed"))
    assert b"".join(server.stream("read_blob", workspace="store", digest=digest)) == _large("killed")


def test_a_client_killed_in_the_middle_of_an_upload_goes_on_with_the_missing_parts(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.create("store", exist_ok=True)
    path = tmp_path / "upload.bin"
    path.write_bytes(_large("client") * 4 + b"more")
    digest, count = _digest(path), 10
    code = (
        "import os, signal, sys\nfrom runyard.client import direct\nfrom runyard.client.local_server import connect\n"
        "kill = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "direct.send_parts(connect(), 'store', sys.argv[1], sys.argv[2], kill)"
    )
    ended = subprocess.run([sys.executable, "-c", code, digest, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    server = current_server()
    assert server.call("find_missing_blobs", DigestList((digest,)), workspace="store").digests == (digest,)
    asked: list[str] = []
    ask = direct._ask
    monkeypatch.setattr(direct, "_ask", lambda *words: asked.append(words[0]) or ask(*words))  # type: ignore[func-returns-value]
    direct.send_parts(server, "store", digest, str(path))
    assert 0 < len(asked) < count
    assert b"".join(server.stream("read_blob", workspace="store", digest=digest)) == path.read_bytes()


def test_a_run_waits_for_a_store_that_is_away(place: Place, tmp_path: Path) -> None:
    source = _source(tmp_path)
    marks = tmp_path / "marks"
    marks.mkdir()
    (source / "write.py").write_text(
        f"import os, time\nopen({str(marks / 'began')!r}, 'w').close()\n"
        f"while not os.path.exists({str(marks / 'go')!r}): time.sleep(0.05)\n"
        "open('outputs/late.txt', 'w').write('late')\n"
    )
    run = _submit(tmp_path)
    assert _wait(lambda: (marks / "began").exists())
    place.proxy.refuse()
    (marks / "go").touch()
    with pytest.raises(ServiceException, match="artifact store"):
        current_server().call("put_blobs", b"\1" + bytes(7) + b"x", workspace="store")
    # What needs no file is answered, and the status says what is wrong.
    assert run.get_status() in ("Queued", "Running", "Finalizing")
    assert "cannot be reached" in current_server().call("server_info").store.problem
    place.proxy.heal()
    run.wait_for_completion(show_output=False)
    assert run.get_status() == "Completed"
    assert "outputs/late.txt" in run.get_file_names()


def test_a_run_that_begins_while_the_store_is_away_waits_for_it(place: Place, tmp_path: Path) -> None:
    first = _submit(tmp_path)
    first.wait_for_completion(show_output=False)
    spec = first._known().spec
    # The snapshot is known, so a run of it is accepted; what the server kept in memory is gone with its process.
    place.stop()
    run = _submit(tmp_path, "again")
    place.proxy.cut_after(0, DOWN)
    assert _wait(lambda: place.proxy.cuts > 3)
    place.proxy.heal()
    run.wait_for_completion(show_output=False)
    assert (run.get_status(), run._known().spec.snapshot) == ("Completed", spec.snapshot)


def test_a_server_starts_without_its_store_and_says_so(place: Place, tmp_path: Path) -> None:
    run = _submit(tmp_path)
    run.wait_for_completion(show_output=False)
    place.stop()
    place.proxy.refuse()
    assert _runyard("up")[0] == 0
    found = json.loads(_runyard("status", "--json")[1])
    assert found["store"] == place.store
    assert "cannot be reached" in found["store_problem"]
    code, said = _runyard("doctor")
    assert code == 1
    assert f"fail  Store: The artifact store {place.store} cannot be reached" in said
    assert Run.get(Workspace.get("store"), run.id).get_status() == "Completed"
    place.proxy.heal()
    assert _wait(lambda: current_server().call("server_info").store.problem == "")
    Run.get(Workspace.get("store"), run.id).download_file("outputs/many/1.txt", str(tmp_path / "1.txt"))
    assert (tmp_path / "1.txt").read_text() == "1"


def test_another_store_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.stop()
    monkeypatch.setenv("RUNYARD_STORE", "s3://elsewhere/prefix")
    with pytest.raises(RunyardError, match=rf"keeps its contents in {place.store}, not in s3://elsewhere/prefix"):
        connect()
    monkeypatch.delenv("RUNYARD_STORE")
    assert _runyard("up")[0] == 0


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("ftp://somewhere", "is no artifact store: it is s3://bucket/prefix"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x refuses: .*NoSuchBucket"),
        ("az://container", "needs an account: set AZURE_STORAGE_ACCOUNT"),
    ],
)
def test_a_store_that_cannot_be_is_said_at_the_start(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, said: str
) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNYARD_STORE", store)
    monkeypatch.setenv("RUNYARD_STORE_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    forget_server()
    with pytest.raises(ServiceException, match=said) as failure:
        connect()
    assert "canary" not in str(failure.value)
    assert not (tmp_path / "home" / "store.json").exists()


def _digest(path: Path) -> str:
    from runyard.files.hashing import hash_file

    return hash_file(str(path))[0]


def _wait(is_so: Any) -> bool:
    """Is it so within some seconds?"""
    ends_at = time.monotonic() + 40
    while time.monotonic() < ends_at:
        if is_so():
            return True
        time.sleep(0.05)
    return False
