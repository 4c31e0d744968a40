"""A home with a real server and real runners: started, killed, started again, and left clean."""

import contextlib
import glob
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runyard.client.home import read_server_file, read_token, server_file, token_file
from runyard.client.http import Server, file_resolver
from runyard.client.local_server import ensure_running
from runyard.client.transfer import send_bytes
from runyard.files.processes import is_alive
from runyard.protocol.environments import EnvironmentSpec, PythonSpec
from runyard.protocol.metrics import decode_read, iterate
from runyard.protocol.runs import TERMINAL, Run, RunEvent, RunSpec
from runyard.protocol.trees import Tree, TreeEntry, encode_tree
from runyard.protocol.workspaces import WorkspaceSpec

WORKSPACE = "house"
#: The interpreter that runs the tests: no environment to build, so a run starts at once.
AS_IT_IS = EnvironmentSpec(name="as-it-is", python=PythonSpec(user_managed=True, interpreter_path=sys.executable))
#: Longest wait for anything that these tests expect, seconds.
LIMIT_S = 40.0

#: What a script of these tests can do: log, and wait for a file that the test makes.
PREAMBLE = """
import os, signal, subprocess, sys, time
from azureml.core import Run
run = Run.get_context()
HERE = os.environ["STAGE"]
def tell(name, text=""):
    with open(os.path.join(HERE, name + ".new"), "w") as file:
        file.write(str(text))
    os.rename(os.path.join(HERE, name + ".new"), os.path.join(HERE, name))
def known(pid):
    # As the test finds it: a confined script knows a process by another number than the host does.
    return os.readlink("/proc/self/ns/pid") + f"/{pid}"
def await_file(name):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.02)
"""


class House:
    """One home folder and a folder beside it through which test and scripts speak."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.stage = folder / "stage"
        self.stage.mkdir(parents=True)
        self._count = 0
        self._servers: list[Server] = []
        self.start()
        self.server.call("create_workspace", WorkspaceSpec(WORKSPACE))

    def start(self) -> None:
        """Start the home's server, or find it running."""
        ensure_running(self.home)
        self.server = Server(file_resolver(server_file(self.home)), read_token(token_file(self.home)))
        self._servers.append(self.server)

    def server_pid(self) -> int:
        found = read_server_file(server_file(self.home))
        assert found is not None
        return int(found["pid"])

    def kill_server(self) -> None:
        """kill -9, and wait until the process is gone."""
        record = read_server_file(server_file(self.home))
        assert record is not None
        kill(int(record["pid"]))
        reap(int(record["pid"]))
        wait_until(lambda: not is_alive(record), "the server is gone")

    def stop_server(self) -> None:
        """End the server as its owner does, and wait until it is gone."""
        record = read_server_file(server_file(self.home))
        if record is not None and is_alive(record):
            os.kill(int(record["pid"]), signal.SIGTERM)
            wait_until(lambda: reap(int(record["pid"])) or not is_alive(record), "the server ends")

    def clean(self) -> None:
        """Nothing that was started here outlives the test: neither server nor runner nor script."""
        for pid in [*self.runner_pids(), *self.script_pids()]:
            kill(pid)
        for server in self._servers:
            server.close()
        self.stop_server()
        for pid in [*self.runner_pids(), *self.script_pids()]:
            kill(pid)

    def submit(self, code: str, **spec: Any) -> str:
        """Submit a script; returns its run's id."""
        self._count += 1
        script = (PREAMBLE + code).encode()
        (digest,) = send_bytes(self.server, WORKSPACE, [script])
        tree = encode_tree(Tree((TreeEntry("train.py", digest, len(script)),)))
        (snapshot,) = send_bytes(self.server, WORKSPACE, [tree])
        values: dict[str, Any] = {"environment": AS_IT_IS, "environment_variables": {"STAGE": str(self.stage)}}
        asked = RunSpec(f"trial_{self._count}", "trial", script="train.py", snapshot=snapshot, **{**values, **spec})
        run: Run = self.server.call("submit_run", asked, workspace=WORKSPACE)
        return run.id

    def tell(self, name: str) -> None:
        """Make the file that a script waits for."""
        (self.stage / name).touch()

    def hear(self, name: str) -> str:
        """What a script wrote under that name, once it is there."""
        wait_until((self.stage / name).exists, f"a script tells {name!r}")
        return (self.stage / name).read_text()

    def hear_pids(self, name: str) -> list[int]:
        """The host's pids of the ``known`` processes that a script told of."""
        return [find_process(one) for one in self.hear(name).split()]

    def run(self, run_id: str) -> Run:
        found: Run = self.server.call("get_run", workspace=WORKSPACE, run_id=run_id)
        return found

    def wait(self, run_id: str, *statuses: str, limit_s: float = LIMIT_S) -> Run:
        """The run once it has one of the statuses (none named: once it has ended), pushed by its events."""
        wanted = frozenset(statuses) or TERMINAL
        ends_at = time.monotonic() + limit_s
        run = self.run(run_id)
        while run.status not in wanted:
            assert time.monotonic() < ends_at, f"{run_id} is {run.status} ({run.reason}), not {sorted(wanted)}"
            assert run.status not in TERMINAL, f"{run_id} ended as {run.status}: {run.error}"
            query = {"after": run.event_seq, "wait_s": 5}
            run = self.server.call("wait_run", query=query, workspace=WORKSPACE, run_id=run_id)
        return run

    def events(self, run_id: str) -> list[RunEvent]:
        found: list[RunEvent] = self.server.call("list_events", workspace=WORKSPACE, run_id=run_id)
        return found

    def steps(self, run_id: str) -> list[str]:
        """The statuses that the run had, each once in a row."""
        found: list[str] = []
        for event in self.events(run_id):
            if not found or found[-1] != event.status:
                found.append(event.status)
        return found

    def log(self, run_id: str) -> str:
        data: bytes = self.server.call("read_log", workspace=WORKSPACE, run_id=run_id, path="user_logs/std_log.txt")
        return data.decode()

    def metric(self, run_id: str, name: str) -> list[Any]:
        """The values of one metric in the order in which they are stored."""
        body = self.server.call("get_metrics", query={"name": name}, workspace=WORKSPACE, run_id=run_id)
        return [value for columns in decode_read(body)[run_id] for _, _, value in iterate(columns)]

    def stored_status(self, run_id: str) -> str:
        """What the database says while no server runs."""
        connection = sqlite3.connect(self.home / "runyard.db")
        try:
            return str(connection.execute("select status from runs where id = ?", (run_id,)).fetchone()[0])
        finally:
            connection.close()

    def attempt_folder(self, run_id: str, attempt: int = 1) -> Path:
        return self.home / "runs" / run_id / str(attempt)

    def runner_pid(self, run_id: str, attempt: int = 1) -> int:
        return int(json.loads((self.attempt_folder(run_id, attempt) / "runner.json").read_text())["pid"])

    def runner_pids(self) -> list[int]:
        records = []
        # Unlike a path's own, this search goes on where a folder has just been removed.
        for path in glob.glob(f"{self.home}/runs/*/*/runner.json"):
            with contextlib.suppress(FileNotFoundError):  # one that has just ended removes it
                records.append(json.loads(Path(path).read_text()))
        return [int(record["pid"]) for record in records if is_alive(record)]

    def script_pids(self) -> list[int]:
        """Every process that was started with this house's stage in its environment."""
        return [pid for pid, values in _environments() if f"STAGE={self.stage}".encode() in values]

    def nursery_pid(self) -> int:
        """The server's child that forks runners."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                    parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
                except OSError:
                    continue
                if b"runyard.runner.nursery" in words and int(parent) == self.server_pid():
                    return int(entry)
        raise AssertionError("the server has no nursery")


def wait_until(is_so: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    """Look until it is so; fails with ``what`` after the limit."""
    ends_at = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < ends_at, f"it never came true that {what}"
        time.sleep(0.02)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reap(pid: int) -> bool:
    """Collect a child of this process that ended; True once it is none (any more)."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def is_running(pid: int) -> bool:
    """Is there such a process, and is it no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def find_process(known: str) -> int:
    """The pid here of a process that has that number in that namespace."""
    space, number = known.split("/")
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == space:
                words = Path(f"/proc/{entry}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()
                if words[-1] == number:
                    return int(entry)
    raise AssertionError(f"there is no process {known}")


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                yield int(entry), Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            except OSError:
                continue


def pids_of(*command: str) -> list[int]:
    """Every process of this host with exactly that command line."""
    wanted = b"".join(os.fsencode(word) + b"\0" for word in command)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{entry}/cmdline").read_bytes() == wanted:
                    found.append(int(entry))
    return found
