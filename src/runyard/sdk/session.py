"""Which server this process talks to: its run's own inside a job, else the configured or the local one."""

import os
from pathlib import Path
from typing import Dict, Optional

from runyard.client.home import home_folder, server_file
from runyard.client.http import Server, file_resolver

_server: Optional[Server] = None
#: The file of the local server that this process uses; None inside a job, and where RUNYARD_SERVER names another.
_record: Optional[Path] = None


def current_server() -> Server:
    """The server of this process; on a user's machine a local one is started if none runs."""
    global _server
    if _server is None:
        _server = _of_job() if is_in_run() else _of_user()
    elif _record is not None and not _record.exists():
        # It was stopped since: what is asked now starts it again, as the first request did.
        _start_again(_record.parent)
    return _server


def forget_server() -> None:
    """Look for the server anew at the next request (the home folder or RUNYARD_SERVER changed)."""
    global _server, _record
    if _server is not None:
        _server.close()
    _server = _record = None


def server_place() -> Dict[str, str]:
    """Where another process finds this one's server: its home's folder, or its address."""
    address = current_server().address()
    return {"url": address} if _record is None else {"home": str(_record.parent)}


def is_in_run() -> bool:
    """Is this process part of a submitted run?"""
    return "AZUREML_RUN_ID" in os.environ and "AZUREML_RUN_TOKEN" in os.environ


def _of_job() -> Server:
    url, token = os.environ.get("RUNYARD_SERVER", ""), os.environ["AZUREML_RUN_TOKEN"]
    path = os.environ.get("RUNYARD_SERVER_FILE")
    shown = file_resolver(Path(path), url, "public_url") if path else None
    return Server(file_resolver(Path(path), url) if path else lambda: url, token, shown=shown)


def _of_user() -> Server:
    # Loaded only here: a job never starts a server.
    from runyard.client.local_server import connect

    global _record
    found = connect()
    _record = None if os.environ.get("RUNYARD_SERVER") else server_file(home_folder())
    return found


def _start_again(home: Path) -> None:
    from runyard.client.local_server import ensure_running

    ensure_running(home)
