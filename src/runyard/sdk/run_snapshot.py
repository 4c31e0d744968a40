"""The source folder of a run as it was submitted, brought back as a zip file."""

import os
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Optional

from runyard.client.transfer import receive_blob
from runyard.errors import UserErrorException
from runyard.protocol.trees import check_path, decode_tree
from runyard.sdk.session import current_server

if TYPE_CHECKING:
    from runyard.sdk.run import Run


def restore_snapshot(run: "Run", snapshot_id: Optional[str], path: Optional[str]) -> str:
    """Write the snapshot into ``path``, a folder or a .zip file; returns the file's path."""
    snapshot = snapshot_id or run._known().spec.snapshot
    if not snapshot:
        raise UserErrorException(f"Run {run.id} has no snapshot: no folder was submitted with it.")
    server, workspace = current_server(), run.experiment.workspace.name
    tree = decode_tree(server.call("read_blob", workspace=workspace, digest=snapshot))
    target = path or "."
    if not target.endswith(".zip"):
        target = os.path.join(target, run.id + ".zip")
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    part = target + ".part"
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in tree.entries:
                pieces = partial(server.stream, "read_blob", workspace=workspace, digest=entry.digest)
                receive_blob(server, workspace, entry.digest, part, pieces)
                os.chmod(part, 0o755 if entry.executable else 0o644)
                archive.write(part, check_path(entry.path))
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return target
