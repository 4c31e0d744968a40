"""Paths that cannot leave their root, whatever they are called and whatever links lie there. Standard library."""

import os
from pathlib import Path

from runyard.errors import UserErrorException


def join_inside(root: Path, path: str) -> Path:
    """``root``/``path``, which need not exist; UserErrorException where a link or '..' would lead out of ``root``."""
    base = os.path.realpath(str(root))
    target = os.path.realpath(os.path.join(base, path))
    if target != base and not target.startswith(base.rstrip("/") + "/"):
        raise UserErrorException(f"The path {path[:120]!r} leads out of its folder.")
    return Path(target)
