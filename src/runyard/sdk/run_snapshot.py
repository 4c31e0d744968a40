"""The source folder of a run as it was submitted, brought back as a zip file or as a folder."""

import os
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

from runyard.client.transfer import receive_blob
from runyard.errors import UserErrorException
from runyard.files.inside import join_inside
from runyard.protocol.trees import TreeEntry, check_path, decode_tree
from runyard.sdk.session import current_server

if TYPE_CHECKING:
    from runyard.sdk.run import Run


def restore_snapshot(run: "Run", snapshot_id: Optional[str], path: Optional[str]) -> str:
    """Write the snapshot into ``path``, a folder or a .zip file; returns the file's path."""
    entries = _entries(run, snapshot_id)
    target = path or "."
    if not target.endswith(".zip"):
        target = os.path.join(target, run.id + ".zip")
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    part = target + ".part"
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in entries:
                _receive(run, entry, part)
                archive.write(part, check_path(entry.path))
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return target


def download_snapshot(run: "Run", folder: str, overwrite: bool = False) -> int:
    """Write the snapshot's files below ``folder``; returns how many.

    UserErrorException for one that is there already, unless ``overwrite``; then nothing has been written.
    """
    entries = _entries(run, None)
    targets = [join_inside(Path(folder), check_path(entry.path)) for entry in entries]
    present = next((target for target in targets if os.path.lexists(str(target)) and not overwrite), None)
    if present is not None:
        raise UserErrorException(f"{present} exists already; choose another folder, or pass overwrite=True.")
    for entry, target in zip(entries, targets):
        _receive(run, entry, str(target))
    return len(entries)


def _entries(run: "Run", snapshot_id: Optional[str]) -> Tuple[TreeEntry, ...]:
    snapshot = snapshot_id or run._known().spec.snapshot
    if not snapshot:
        raise UserErrorException(f"Run {run.id} has no snapshot: no folder was submitted with it.")
    data = current_server().call("read_blob", workspace=run.experiment.workspace.name, digest=snapshot)
    return decode_tree(data).entries


def _receive(run: "Run", entry: TreeEntry, target: str) -> None:
    server, workspace = current_server(), run.experiment.workspace.name
    pieces = partial(server.stream, "read_blob", workspace=workspace, digest=entry.digest)
    receive_blob(server, workspace, entry.digest, target, pieces)
    os.chmod(target, 0o755 if entry.executable else 0o644)
