"""What a local source of a dataset stands for: a file, all below a folder, or what a pattern matches."""

import glob
import os
from typing import List, Optional, Tuple

from runyard.protocol.mounts import GLOB, fixed_part


def list_source(path: str, base: Optional[str] = None) -> List[Tuple[str, str]]:
    """(absolute path, path below the mount) of each file; empty where nothing is there.

    ``base``: the folder that the paths below the mount are relative to; None: the source's own.
    """
    if GLOB.search(path):
        base = base or fixed_part(path) or "/"
        found = sorted(one for one in glob.glob(path, recursive=True) if os.path.isfile(one))
    elif os.path.isdir(path):
        base = base or path
        found = [os.path.join(parent, name) for parent, _, names in os.walk(path) for name in sorted(names)]
    else:
        base = base or os.path.dirname(path)
        found = [path] if os.path.isfile(path) else []
    return [(one, os.path.relpath(one, base)) for one in found]
