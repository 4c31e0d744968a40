"""On a node that is not the server's: makes the attempt's folder, starts its runner, and another one where that dies.

compute/bootstrap.py fetches it and becomes it.
"""

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional

from runyard.environments.confinement import deaf_words, isolation_here, why_not
from runyard.environments.kit import make_kit
from runyard.files.layout import attempt_folder, runs_folder_name
from runyard.files.processes import is_alive
from runyard.protocol.plan import LAUNCH_FILE, Launch, NodeFacts, RemoteLaunch
from runyard.protocol.wire import dumps, loads
from runyard.runner.folder import AttemptFolder, claim
from runyard.runner.processes import adopt_orphans, end_all

#: Holds a descriptor that hears once this node's part is done.
DONE = "RUNYARD_DONE"
#: How many runners in a row may be lost before the node gives the attempt up.
RUNNERS_MAX = 4
#: Asks a supervisor for another runner at once: the present one does not listen.
REPLACE = signal.SIGUSR1
#: Told to end: its runner decides what becomes of the script.
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
#: How long a runner that completes another one's record is left alone by REPLACE, seconds.
BEGINS_S = 10.0
#: What an attempt left behind on a node that was lost is removed after this time, seconds.
KEPT_S = 7 * 86_400.0


def main(root: str, message: str) -> int:
    """Carry out this node's part of that RemoteLaunch; returns 0 once the server has all of it."""
    asked = os.environ.pop(DONE, None)
    if asked is not None:
        # The job's processes have nothing to say there.
        os.set_inheritable(int(asked), False)
    code = carry_out(root, loads(RemoteLaunch, message))
    if code == 0:
        tell_done(asked)
    return code


def carry_out(root: str, launch: RemoteLaunch) -> int:
    """As ``main``; 1 where the attempt was given up."""
    take_settings(launch.index_settings)
    # bubblewrap takes its time to answer; meanwhile the runner is imported, for all that are forked.
    asking = threading.Thread(target=lambda: why_not() or deaf_words(), name="isolation")
    asking.start()
    import runyard.runner.__main__  # noqa: F401

    asking.join()
    runs_folder = Path(root) / runs_folder_name(launch.server_url)
    _forget_old(runs_folder)
    folder = lay_out(launch, Path(root), runs_folder)
    if folder is None:
        return 0
    key = AttemptFolder(str(folder)).key
    # What a killed runner leaves behind comes to this process, and goes with it.
    adopt_orphans()
    for number in range(RUNNERS_MAX):
        _supervise(folder, is_recovery=number > 0)
        if not (folder / LAUNCH_FILE).exists():
            end_all(key, 0)
            return 0
        sys.stderr.write(f"Runyard: the runner in {folder} is gone; another one completes its record.\n")
        sys.stderr.flush()
    if not is_alive(_record(folder)):
        end_all(key, 0)
    return 1


def take_settings(settings: Dict[str, str]) -> None:
    """Take packages from where the server's machine does, unless this one says otherwise or lacks what is named."""
    for name, text in settings.items():
        if name not in os.environ and (not text.startswith("/") or os.path.exists(text)):
            os.environ[name] = text


def lay_out(launch: RemoteLaunch, root: Path, runs_folder: Path) -> Any:
    """Make the attempt's folder with all that its runner is told; None: a runner of it lives already."""
    node = 0
    if launch.number_variable:
        if not os.environ.get(launch.number_variable, "").isdecimal():
            sys.exit(f"Runyard: {launch.number_variable} is no number here, and says which of the run's nodes this is.")
        node = int(os.environ[launch.number_variable])
    folder = attempt_folder(runs_folder, launch.plan.run_id, launch.plan.attempt, node)
    if not (root / "kits" / launch.plan.kit).is_dir():
        make_kit(str(root / "kits"))
    facts = NodeFacts(
        cache_folder=str(root),
        store_folder=None,
        datastores_folder=None,
        server_file=launch.server_file,
        server_url=launch.server_url,
        node=socket.gethostname(),
        home_folder=str(root),
        # Where it was asked for and cannot be, the runner lets the run fail, and says why.
        isolation=launch.isolation or isolation_here("", str(root)),
        address=own_address(launch.server_url),
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / LAUNCH_FILE).exists() and is_alive(_record(folder)):
        return None
    told = dumps(Launch(launch.plan, facts, launch.secret, node))
    with open(os.open(folder / LAUNCH_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(told)
    return folder


def own_address(server_url: str) -> str:
    """Where others reach this node: its address on the way to the server. Nothing is sent for that."""
    parts = urllib.parse.urlsplit(server_url)
    found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as way:
        way.connect(address)
        return str(way.getsockname()[0])


def _record(folder: Path) -> Any:
    try:
        return json.loads((folder / "runner.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _supervise(folder: Path, is_recovery: bool) -> None:
    """Fork a runner and wait for its end; whoever tells this process to end means the script, whose runner decides."""
    told = {*_PASSED_ON, REPLACE}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    begun_at, runner = time.monotonic(), os.fork()
    if runner == 0:
        _become_runner(folder, is_recovery)

    def pass_on(number: int, _frame: Any) -> None:
        os.kill(runner, number)

    def replace(_number: int, _frame: Any) -> None:
        if not is_recovery or time.monotonic() - begun_at > BEGINS_S:
            os.kill(runner, signal.SIGKILL)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    signal.signal(REPLACE, replace)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
    # It is collected only where no handler can send anything to its number any more.
    os.waitid(os.P_PID, runner, os.WEXITED | os.WNOWAIT)
    for number in told:
        signal.signal(number, signal.SIG_IGN)
    os.waitpid(runner, 0)


def _become_runner(folder: Path, is_recovery: bool) -> None:
    """Be the runner from here on: this process has all of it imported already."""
    code = 1
    try:
        for number in (*_PASSED_ON, REPLACE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_PASSED_ON, REPLACE})
        from runyard.runner.__main__ import main as run_attempt

        claim(str(folder))
        run_attempt(str(folder), is_recovery)
        code = 0
    except BaseException:  # noqa: BLE001 - a copy of the supervisor must not go on
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _forget_old(runs_folder: Path) -> None:
    """Remove what attempts left here whose node was lost, or whose record could not be completed."""
    before = time.time() - KEPT_S
    for folder in runs_folder.glob("*/*"):
        if folder.stat().st_mtime < before and not is_alive(_record(folder)):
            shutil.rmtree(folder, ignore_errors=True)


def tell_done(descriptor: Optional[str]) -> None:
    """Say to whoever asked for it that this node's part is done, by a byte; compute/ray_bridge.py does."""
    if descriptor is not None:
        with suppress(OSError, ValueError):  # Nobody may be left to hear it.
            os.write(int(descriptor), b".")
