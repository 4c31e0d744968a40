"""The Python of an environment with PyTorch, made by pip as a user makes it."""

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.frameworks.warm_server import CACHES

PACKAGES = ("torch==2.13.0", "numpy")


def torch_python() -> Path:
    """Made once on this machine: it takes minutes."""
    folder = CACHES / "-".join(["python", *map(str, sys.version_info[:3]), *PACKAGES])
    CACHES.mkdir(parents=True, exist_ok=True)
    with open(CACHES / "torch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            # With its byte code, without which the first import takes ten times as long.
            variables = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES]
            subprocess.run(command, env=variables, check=True)
            (folder / "ready").touch()
    return folder / "bin" / "python"
