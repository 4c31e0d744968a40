"""Brings a dataset's files to this machine: copied, received from the server, or fetched from the web with checks."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, List, Optional, Tuple

from runyard.client.transfer import receive_file
from runyard.errors import NotFoundError, UserErrorException
from runyard.files.fetch import fetch
from runyard.files.inside import join_inside
from runyard.protocol.datasets import Source
from runyard.protocol.selection import Step
from runyard.protocol.trees import check_path
from runyard.sdk import file_dataset
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
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for source, origin, relative in file_dataset.chosen_files(sources, workspace, steps):
        target = join_inside(root, check_path(relative.replace(os.sep, "/")))
        if target.exists() and not overwrite:
            raise UserErrorException(f"{target} exists already; pass overwrite=True.")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _bring(source, origin, target, workspace)
        except NotFoundError:
            if not ignore_not_found:
                raise
            continue
        paths.append(str(target))
    return paths


def _bring(source: Source, origin: str, target: Path, workspace: Any) -> None:
    if source.url is not None:
        fetch(source.url, str(target), allow_private=True)
    elif source.file is not None:
        shutil.copyfile(origin, str(target))
    else:
        names = {"workspace": workspace.name, "name": source.datastore, "path": origin}
        receive_file(current_server().stream("read_datastore_file", **names), str(target))
