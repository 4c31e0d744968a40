"""What nodes fetch that have nothing of Runyard: the archive of the runner, and the server's own uv."""

import os
import platform
import re
from pathlib import Path
from typing import BinaryIO

from runyard.environments.uv import find_uv
from runyard.errors import NotFoundError
from runyard.server.call import Call, Content
from runyard.server.threads import in_thread

_ARCHIVE = re.compile(r"^runner-[0-9a-f]{64}\.tar\.gz$")


async def read_node_file(call: Call) -> Content:
    """The bytes of one; NotFoundError says what the node must have instead."""
    file = await in_thread(_open, call)
    return Content(file=file, size_bytes=os.fstat(file.fileno()).st_size)


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
