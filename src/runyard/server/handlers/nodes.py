"""What nodes fetch: the archive of the runner, the server's own uv, and environments that the server has built."""

import os
import platform
import re
from pathlib import Path
from typing import BinaryIO

from runyard.db import fleet, runs
from runyard.environments.uv import find_uv
from runyard.errors import NotFoundError
from runyard.protocol.environments import EnvironmentPack
from runyard.server.call import Call, Content
from runyard.server.threads import in_thread

_ARCHIVE = re.compile(r"^runner-[0-9a-f]{64}\.tar\.gz$")


async def read_node_file(call: Call) -> Content:
    """The bytes of one; NotFoundError says what the node must have instead."""
    file = await in_thread(_open, call)
    return Content(file=file, size_bytes=os.fstat(file.fileno()).st_size)


def find_environment_pack(call: Call) -> EnvironmentPack:
    """The pack of the run's own environment, for a node of that platform; NotFoundError where it has to build it."""
    with call.parts.database.read() as connection:
        row = runs.get_row(connection, call.workspace, call.path["run_id"])
        lock = None if row.lock is None else fleet.get_lock(connection, row.lock)
    if lock is None:
        raise NotFoundError(f"Run {row.id} has no environment yet.")
    return call.parts.packs.find(call.workspace, lock, call.query.get("platform", ""))


def read_environment_pack(call: Call) -> Content:
    """Its bytes."""
    found = find_environment_pack(call)
    return Content(file=call.parts.store.open(found.digest), size_bytes=found.size_bytes)


def _open(call: Call) -> BinaryIO:
    name = call.path["name"]
    path: Path = call.parts.settings.home / "cache" / "node-files" / "none"
    if _ARCHIVE.match(name):
        path = path.with_name(name)
    elif name == f"uv-{platform.system()}-{platform.machine()}":
        path = Path(find_uv())
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NotFoundError(
            f"The server has no file {name[:100]!r} for nodes; a node of another kind needs its own uv."
        ) from None
