"""A service on a home whose disk gets full, in a mount namespace of its own: it answers, and later deploys work."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runyard.azureml.core import Model, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.errors import AzureMLException
from tests.own_server import own_server
from tests.serving.test_services import here, post
from tests.serving.test_survive import fronts, replicas, seen_of, wait_until

#: Prints more than there is room for, in each of the ways that scripts print; and fails, which is logged too.
SCRIPT = """
import json, logging, sys
def run(data):
    found = json.loads(data)
    print("x" * 300_000, flush=True)
    sys.stderr.write("y" * 300_000 + "\\n")
    sys.stdout.flush()
    logging.warning("z" * 1000)
    return found[0]
"""


def main(folder: Path) -> None:
    """Fill the disk, ask, end processes, deploy; free it, deploy."""
    disk, source = folder / "disk", folder / "source"
    disk.mkdir()
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    (source / "score.py").write_text(SCRIPT)
    config = InferenceConfig("score.py", source_directory=str(source), environment=here())
    with own_server(disk / "home"):
        workspace = Workspace.create("full", exist_ok=True)
        service = Model.deploy(workspace, "full-disk", [], config)
        service.wait_for_deployment()
        pid, uri = seen_of(service).pid, service.scoring_uri
        assert post(uri, [7]) == (200, 7)
        _fill(disk / "ballast")
        (pid_of_model,) = replicas(service)
        for _ in range(5):
            assert post(uri, [7]) == (200, 7)
        status, answer = post(uri, [])
        assert (status, "IndexError" in answer["error"]) == (500, True), answer
        assert replicas(service) == [pid_of_model], "what it prints ends no process"
        for which in (replicas, fronts):
            before = which(service)
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda w=which, b=before: w(service) and not set(w(service)) & set(b), "started anew")
            assert post(uri, [7]) == (200, 7)
        assert seen_of(service).pid == pid
        with contextlib.suppress(AzureMLException):
            Model.deploy(workspace, "another", [], config)
        time.sleep(2)
        (disk / "ballast").unlink()
        assert post(uri, [7]) == (200, 7)
        if "another" in workspace.webservices:
            another = workspace.webservices["another"]
            with contextlib.suppress(AzureMLException):
                another.wait_for_deployment(timeout_sec=30)
            assert another.state in ("Healthy", "Failed"), another.state
            another.delete()
        another = Model.deploy(workspace, "another", [], config)
        another.wait_for_deployment(timeout_sec=60)
        assert post(another.scoring_uri, [7]) == (200, 7)
        for one in (service, another):
            one.delete()
    print("survived")


def _fill(ballast: Path) -> None:
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 512):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
