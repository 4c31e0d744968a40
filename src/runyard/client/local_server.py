"""Finds the server to talk to, and starts the one of this home folder if none runs."""

import fcntl
import http.client
import os
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Callable, List, Optional
from urllib.parse import urlsplit

from runyard.client.home import home_folder, read_server_file, read_token, server_file, token_file
from runyard.client.http import Server, file_resolver
from runyard.errors import (
    AuthenticationException,
    RunyardError,
    ServerUnreachableError,
    ServiceException,
    UserErrorException,
)
from runyard.files.processes import is_alive
from runyard.protocol.routes import PREFIX
from runyard.protocol.server import ServerInfo

#: How long a new server may take to answer, seconds.
START_TIMEOUT_S = 60.0
#: A home's name for the lock that lets only one process start its server.
START_LOCK = "starting.lock"

#: A line that begins as Python's and our own errors do.
_ERROR = re.compile(r"runyard: |[A-Za-z_][\w.]*(Error|Exception)\b")

#: Servers that this process started. They outlive it; kept, so that nobody warns that they do.
_started: List["subprocess.Popen[bytes]"] = []


def connect(start: bool = True) -> Server:
    """The server of RUNYARD_SERVER (with RUNYARD_TOKEN), else this home's own, started if it is not running."""
    address = os.environ.get("RUNYARD_SERVER")
    if address:
        token = os.environ.get("RUNYARD_TOKEN")
        if not token:
            raise AuthenticationException(f"RUNYARD_SERVER is set to {address}; set RUNYARD_TOKEN too.")
        return Server(lambda: address.rstrip("/"), token)
    home = home_folder()
    if start:
        ensure_running(home)
    elif not is_running(home):
        raise ServerUnreachableError(f"No server runs for {home}.", hint="Start it with: runyard up")
    resolve = _reviving_resolver(home) if start else file_resolver(server_file(home))
    token = os.environ.get("RUNYARD_TOKEN") or read_token(token_file(home))
    shown = file_resolver(server_file(home), name="public_url")
    return Server(resolve, token, shown=shown)


def is_running(home: Path) -> bool:
    """Does the home's server answer?"""
    found = read_server_file(server_file(home))
    return found is not None and is_alive(found) and _answers(str(found["url"]))


def find_server_info() -> Optional[ServerInfo]:
    """What the home's running server tells of itself; None where it tells us nothing."""
    try:
        found: ServerInfo = connect(start=False).call("server_info")
    except RunyardError:
        return None
    return found


def ensure_running(home: Path, port: Optional[int] = None) -> bool:
    """Start the home's server unless it runs; returns whether it was started now. It outlives its starter."""
    if is_running(home):
        return False
    with _open_lock(home) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_running(home):
            return False
        _start(home, port)
    return True


def _open_lock(home: Path) -> IO[str]:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return open(home / START_LOCK, "w")
    except OSError as error:
        raise UserErrorException(
            f"The home folder {home} cannot be written ({error.strerror}).", hint="Choose one with RUNYARD_HOME."
        ) from None


def _reviving_resolver(home: Path) -> Callable[[], str]:
    """The address of the home's server; one that was killed is started again, one that was stopped stays down."""
    find = file_resolver(server_file(home))

    def resolve() -> str:
        found = read_server_file(server_file(home))
        # A server that is stopped takes its file with it.
        if found is not None and not is_alive(found):
            ensure_running(home)
        return find()

    return resolve


def _start(home: Path, port: Optional[int]) -> None:
    command = [sys.executable, "-m", "runyard.server", "--home", str(home)]
    if port is not None:
        command += ["--port", str(port)]
    # Without byte code each start compiles every module anew.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with open(home / "server.log", "ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=variables, start_new_session=True
        )
    _started.append(process)
    ends_at = time.monotonic() + START_TIMEOUT_S
    pause_s = 0.01
    while time.monotonic() < ends_at:
        if is_running(home):
            return
        if process.poll() is not None and not is_running(home):
            raise ServiceException(
                f"The server ended at once (exit {process.returncode}): {_last_words(home, begin)}",
                hint="Its log is {}.".format(home / "server.log"),
            )
        time.sleep(pause_s)
        pause_s = min(0.02, pause_s * 1.2)
    raise ServerUnreachableError(
        f"The server did not answer within {START_TIMEOUT_S:.0f} s.", hint="Its log is {}.".format(home / "server.log")
    )


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    if parts.scheme == "https":
        # Who it is does not matter here: nothing secret is sent.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=5, context=context)
    try:
        connection.request("GET", PREFIX + "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(home: Path, begin: int) -> str:
    """What ended a server: the last error that it wrote from ``begin`` on, else its last line."""
    with open(home / "server.log", "rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    # An error may be followed by lines that explain it.
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["it said nothing"])[-1]
