"""Where Runyard keeps its state on this machine, and what the files there are called."""

import json
import os
import stat
from pathlib import Path
from typing import Any, Dict, Optional

from runyard.errors import AuthenticationException


def home_folder() -> Path:
    """RUNYARD_HOME, else runyard/ under XDG_DATA_HOME, else ~/.local/share/runyard."""
    chosen = os.environ.get("RUNYARD_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "runyard"


def server_file(home: Path) -> Path:
    """Names the running server's address, process and version; there only while one runs, or ended by force."""
    return home / "server.json"


def token_file(home: Path) -> Path:
    """Holds the owner's token."""
    return home / "token"


def read_server_file(path: Path) -> Optional[Dict[str, Any]]:
    """What the server wrote there; None where there is nothing to read."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("url"), str) else None


def read_token(path: Path) -> str:
    """The token in a file that nobody else can read; AuthenticationException otherwise."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise AuthenticationException(
                f"The token file {path} can be read by others (mode {mode:o}); run: chmod 600 {path}"
            )
        return path.read_text().strip()
    except FileNotFoundError:
        raise AuthenticationException(
            f"There is no token at {path}; set RUNYARD_TOKEN, or start a server with: runyard up"
        ) from None
