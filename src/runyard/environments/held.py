"""Environments that are in use: whoever uses one holds a lock beside it, and nobody prunes it meanwhile."""

import fcntl
import os
from typing import Optional

#: Goes after the folder's name.
USE = ".use"


def hold_folder(folder: str) -> Optional[int]:
    """Keep an environment's folder from being pruned, from before it is there until the descriptor is closed.

    None where nobody here may write beside it.
    """
    path = folder + USE
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
