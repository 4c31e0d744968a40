"""On a node that is not the server's: makes the attempt's folder, starts its runner, and another one where that dies.

``python -m runyard.runner.supervise FOLDER``, with a RemoteLaunch on standard input (compute/bootstrap.py sees to it).
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any, Dict, List

from runyard.environments.confinement import isolation_here
from runyard.environments.kit import make_kit
from runyard.files.layout import attempt_folder
from runyard.files.processes import is_alive
from runyard.protocol.plan import LAUNCH_FILE, Launch, NodeFacts, RemoteLaunch
from runyard.protocol.wire import dumps, loads
from runyard.runner.folder import AttemptFolder
from runyard.runner.processes import adopt_orphans, end_all

#: How many runners in a row may be lost before the node gives the attempt up.
RUNNERS_MAX = 4
#: What an attempt left behind on a node that was lost is removed after this time, seconds.
KEPT_S = 7 * 86_400.0


def main(root: str) -> int:
    """Carry out this node's part; returns 0 once the server has all of it."""
    launch = loads(RemoteLaunch, sys.stdin.read())
    take_settings(launch.index_settings)
    runs_folder = Path(root) / ("runs-" + hashlib.sha256(launch.server_url.encode()).hexdigest()[:8])
    _forget_old(runs_folder)
    folder = lay_out(launch, Path(root), runs_folder)
    if folder is None:
        return 0
    key = AttemptFolder(str(folder)).key
    # What a killed runner leaves behind comes to this process, and goes with it.
    adopt_orphans()
    for number in range(RUNNERS_MAX):
        _supervise([sys.executable, "-m", "runyard.runner", str(folder), *(["--recover"] if number else [])])
        if not (folder / LAUNCH_FILE).exists():
            end_all(key, 0)
            return 0
        sys.stderr.write(f"Runyard: the runner in {folder} is gone; another one completes its record.\n")
        sys.stderr.flush()
    return 1


def take_settings(settings: Dict[str, str]) -> None:
    """Take packages from where the server's machine does, unless this one says otherwise or lacks what is named."""
    for name, text in settings.items():
        if name not in os.environ and (not text.startswith("/") or os.path.exists(text)):
            os.environ[name] = text


def lay_out(launch: RemoteLaunch, root: Path, runs_folder: Path) -> Any:
    """Make the attempt's folder with all that its runner is told; None: a runner of it lives already."""
    node = int(os.environ.get(launch.number_variable) or 0) if launch.number_variable else 0
    folder = attempt_folder(runs_folder, launch.plan.run_id, launch.plan.attempt, node)
    make_kit(str(root / "kits"))
    facts = NodeFacts(
        cache_folder=str(root),
        store_folder=None,
        datastores_folder=None,
        server_file=None,
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


def _supervise(command: List[str]) -> None:
    """Run that process to its end; whoever tells this one to end means the script, whose runner decides."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as runner:

        def pass_on(number: int, _frame: Any) -> None:
            runner.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        runner.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _forget_old(runs_folder: Path) -> None:
    """Remove what attempts left here whose node was lost, or whose record could not be completed."""
    before = time.time() - KEPT_S
    for folder in runs_folder.glob("*/*"):
        if folder.stat().st_mtime < before and not is_alive(_record(folder)):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
