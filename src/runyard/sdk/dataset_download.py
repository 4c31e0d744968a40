"""Brings a dataset's files to this machine: copied, received from the server, or fetched from the web with checks."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, List, Optional, Tuple, Type

from runyard.client.downloads import Downloads, Wanted
from runyard.errors import NotFoundError, UserErrorException
from runyard.files.cache import ContentCache
from runyard.files.inside import join_inside
from runyard.protocol.datasets import Source
from runyard.protocol.selection import Step
from runyard.protocol.trees import check_path
from runyard.sdk import file_dataset
from runyard.sdk.progress import Progress
from runyard.sdk.session import current_server


def download(
    sources: Tuple[Source, ...],
    workspace: Any,
    steps: Tuple[Step, ...],
    target_path: Optional[str],
    overwrite: bool,
    ignore_not_found: bool,
) -> List[str]:
    """Download every file; returns the local paths. UserErrorException for one that is there, unless ``overwrite``."""
    root = Path(target_path or tempfile.mkdtemp(prefix="runyard-dataset-"))
    make_folder(str(root))
    found = [
        (one, join_inside(root, check_path(one.relative.replace(os.sep, "/"))))
        for one in file_dataset.chosen_files(sources, workspace, steps)
    ]
    present = next((target for _, target in found if target.exists() and not overwrite), None)
    if present is not None:
        raise UserErrorException(f"{present} exists already; pass overwrite=True.")
    far = [Wanted.of(one, str(target)) for one, target in found if one.source.file is None]
    for one, target in found:
        if one.source.file is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.origin, str(target))
    bring(far, workspace, skip=(NotFoundError,) if ignore_not_found else ())
    return [str(target) for _, target in found if target.exists()]


def make_folder(path: str) -> None:
    """Make the folder that files are brought to; UserErrorException where it cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        what = "there is a file of that name" if isinstance(error, FileExistsError) else str(error.strerror)
        raise UserErrorException(f"The folder {path!r} cannot be made: {what}.") from None


def bring(
    wanted: List[Wanted],
    workspace: Any,
    cache: Optional[ContentCache] = None,
    skip: Tuple[Type[Exception], ...] = (),
) -> None:
    """Bring files with a progress line; from ``cache``, where there is one, as other names of its own files.

    ``skip``: errors of one file that leave it out.
    """
    if not wanted:
        return
    name = workspace.name if workspace is not None else ""
    server = current_server() if any(one.url is None for one in wanted) else None
    with Progress("Downloading", sum(one.size_bytes or 0 for one in wanted), len(wanted)) as progress:
        downloads = Downloads(server, name, allow_private=True, cache=cache, may_link=cache is not None, skip=skip)
        downloads.carry_out(wanted, progress.add_bytes, lambda _received: progress.add_file())
