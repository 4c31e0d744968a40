"""A server whose environments are made of what this user's earlier ones have left: fetched, built and byte-compiled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard.environments.layers import layers_folder
from runyard.environments.uv import find_uv
from runyard.environments.with_uv import bytecode_folder
from tests.own_server import own_server

#: Of this user, for as long as it is on this machine.
CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runyard-tests"


@contextmanager
def warm_server(home: Path) -> Iterator[None]:
    """As ``own_server``, with uv's cache of this user: a wheel that takes minutes to compile is compiled once."""
    with own_server(home, **warm_settings(home)):
        yield


def warm_settings(home: Path) -> dict[str, str]:
    """Make a home's caches warm before its server starts; the variables that this takes."""
    cache = subprocess.run([find_uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    for own in map(Path, (bytecode_folder(str(home / "cache")), layers_folder(str(home / "cache")))):
        shared = CACHES / own.name
        shared.mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(shared)
    return {"UV_CACHE_DIR": cache}
