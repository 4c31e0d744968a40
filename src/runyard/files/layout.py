"""Where an attempt's files lie on a node, and the one way to replace a small file. Standard library."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from runyard.errors import UserErrorException

#: What the system says where no space is left, or none of a quota.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

#: A run's id up to so many bytes is its folder's name; a longer one is cut to so many characters, with its digest.
FOLDER_NAME_MAX, FOLDER_NAME_KEPT = 200, 100


def folder_name(run_id: str) -> str:
    """A name for the run's folder: one path component, whatever the id; UserErrorException for a hostile one."""
    if not run_id or "/" in run_id or "\0" in run_id or run_id in (".", ".."):
        raise UserErrorException(f"{run_id[:80]!r} is not the id of a run.")
    if len(run_id.encode("utf-8", "replace")) <= FOLDER_NAME_MAX:
        return run_id
    return "{}-{}".format(run_id[:FOLDER_NAME_KEPT], hashlib.sha256(run_id.encode("utf-8", "replace")).hexdigest()[:32])


def runs_folder_name(server_url: str) -> str:
    """What a node calls the folder with the runs of that server, beside those of others that it serves."""
    return "runs-" + hashlib.sha256(server_url.encode()).hexdigest()[:8]


def attempt_folder(runs_folder: Path, run_id: str, attempt: int, node: int = 0) -> Path:
    """The folder of one attempt on one of its nodes: ``<attempt>``, and ``<attempt>-<node>`` of all but the first."""
    return runs_folder / folder_name(run_id) / (f"{attempt}-{node}" if node else str(attempt))


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file at ``path``: readers see the old content or the new, also after a crash of the process."""
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix="." + path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            # By what is open and not by its name: a job may own the folder, and put a link there.
            os.fchmod(handle, mode)
        os.replace(name, str(path))
    except BaseException:
        try:
            os.unlink(name)
        except OSError:
            pass
        raise
