"""What a local source of a dataset stands for: a file, all below a folder, or what a pattern matches."""

import glob
import os
from typing import List, Tuple

from runyard.protocol.mounts import GLOB, fixed_part


def list_source(path: str) -> List[Tuple[str, str]]:
    """(absolute path, path below the mount) of each file; empty where nothing is there."""
    if GLOB.search(path):
        base = fixed_part(path) or "/"
        found = sorted(one for one in glob.glob(path, recursive=True) if os.path.isfile(one))
        return [(one, os.path.relpath(one, base)) for one in found]
    if os.path.isdir(path):
        return [
            (os.path.join(parent, name), os.path.relpath(os.path.join(parent, name), path))
            for parent, _, names in os.walk(path)
            for name in sorted(names)
        ]
    return [(path, os.path.basename(path))] if os.path.isfile(path) else []
