"""What a node runs that has nothing of Runyard but a Python: it fetches the runner, and becomes its supervisor.

It goes to the node as text, on the standard input of ``python3 -``, and so imports the standard library alone. What it
is told stands in MESSAGE, a JSON text of protocol/plan.RemoteLaunch that stands before it. Each attempt waits for it:
what only the first one on a node needs is imported there.
"""

import gc
import importlib
import json
import os
import sys
from typing import Any, Dict

#: The oldest Python of a node: the runner waits for processes by their descriptors.
OLDEST = (3, 9)
#: How long one try to fetch the runner may take, seconds.
TIMEOUT_S = 60.0


def main(message: str) -> None:
    """Fetch what is not there yet, and become the supervisor of this node's part of the attempt."""
    if sys.version_info < OLDEST:
        sys.exit("Runyard: python3 of this node is {}.{}; a runner needs 3.9 or newer.".format(*sys.version_info[:2]))
    launch = json.loads(message)
    root = node_folder(launch.get("folder") or "")
    runner = os.path.join(root, "runners", launch["archive"].split(".")[0])
    if not os.path.isdir(runner):
        fetch(launch, runner)
    # The program that was read there names the token.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    look_in(runner)
    os.chdir("/")
    # In this very process: another interpreter takes its time to start. By its name, for it is what was fetched, and no
    # module of whoever wrote this text down. Nothing that an import makes is garbage.
    gc.disable()
    supervise = importlib.import_module("runyard.runner.supervise")
    gc.enable()
    sys.exit(supervise.main(root, message))


def look_in(runner: str) -> None:
    """Have this process and its own ones find the runner's modules, and none where its user has others."""
    others = [os.path.abspath(one) for one in ("", *os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [runner, *(one for one in sys.path if os.path.abspath(one) not in others)]
    os.environ["PYTHONPATH"] = runner


def node_folder(asked: str) -> str:
    """Where this node keeps runners, environments and attempts; made, for its user alone."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.expandvars(os.path.expanduser(asked)) if asked else os.path.join(caches, "runyard", "node")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        # Whoever may write there could have put a runner of their own in place.
        where = f"{folder} on node {os.uname()[1]}"
        sys.exit(f"Runyard: {where} belongs to another user, or others may write there: name another node_folder.")
    return os.path.abspath(folder)


def fetch(launch: Dict[str, Any], folder: str) -> None:
    """Put the runner that the launch names into that folder, from the server."""
    import compileall
    import hashlib
    import io
    import shutil
    import tarfile
    import tempfile

    runners = os.path.dirname(folder)
    os.makedirs(runners, exist_ok=True)
    data = download(launch, launch["archive"])
    if hashlib.sha256(data).hexdigest() not in launch["archive"]:
        sys.exit("Runyard: the runner from {} arrived damaged.".format(launch["server_url"]))
    made = tempfile.mkdtemp(prefix=".making-", dir=runners)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            path = os.path.join(made, *member.name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            content = archive.extractfile(member)
            with open(path, "wb") as file:
                file.write(content.read() if content is not None else b"")
    # Where Python is told to write none, each attempt would compile all of it again.
    compileall.compile_dir(made, quiet=2, stripdir=made, prependdir=folder)
    try:
        os.rename(made, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise
        # Another attempt was first.
        shutil.rmtree(made, ignore_errors=True)


def download(launch: Dict[str, Any], name: str) -> bytes:
    """A file that the server keeps for nodes; ends this process with a sentence where it cannot be had."""
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    plan = launch["plan"]
    url = "{}/api/1/workspaces/{}/runs/{}/node-files/{}".format(
        launch["server_url"], quote(plan["workspace"], ""), quote(plan["run_id"], ""), name
    )
    request = Request(url, headers={"Authorization": "Bearer " + launch["secret"]})
    try:
        with urlopen(request, timeout=TIMEOUT_S) as reply:
            return bytes(reply.read())
    except OSError as error:
        sys.exit(
            "Runyard: node {} cannot fetch the runner from {} ({}). Start the server with --host 0.0.0.0 and "
            "RUNYARD_PUBLIC_URL set to an address that the nodes reach.".format(
                os.uname()[1], launch["server_url"], error
            )
        )


if __name__ == "__main__":
    # It stands before this text on the node.
    main(globals()["MESSAGE"])
