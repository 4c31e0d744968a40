"""What ``runyard doctor`` looks at."""

import importlib.util
import os
import shutil
import sys

from runyard.client.home import home_folder
from runyard.client.local_server import find_server_info, is_running
from runyard.environments.confinement import VARIABLE, isolation_here, isolation_problem
from runyard.environments.pythons import find_interpreters
from runyard.environments.uv import find_uv
from runyard.errors import RunyardError
from runyard.protocol.record import record

#: Less free space than this is a warning, bytes.
FREE_BYTES = 5 << 30


@record
class Check:
    """One thing that was looked at: ok, warn or fail."""

    state: str
    what: str
    text: str


def all_checks() -> list[Check]:
    """Every check, in the order in which a newcomer meets them."""
    server = [_server(), *_store(), _isolation()]
    return [_python(), _uv(), _home(), _space(), *server, _bare_name(), _pythons(), *_systemd()]


def _python() -> Check:
    text = f"{sys.version.split()[0]} at {sys.executable}"
    if not importlib.util.find_spec("uvicorn"):
        return Check(
            "fail", "Python", text + "; it has no server: pip install 'runyard[server]' on Python 3.11 or newer"
        )
    return Check("ok", "Python", text)


def _uv() -> Check:
    try:
        return Check("ok", "uv", find_uv())
    except RunyardError as error:
        return Check("fail", "uv", str(error))


def _home() -> Check:
    home = home_folder()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        return Check("fail", "Home", f"{home} cannot be made: {error.strerror}; set RUNYARD_HOME")
    if not os.access(home, os.W_OK):
        return Check("fail", "Home", f"{home} cannot be written; set RUNYARD_HOME")
    return Check("ok", "Home", str(home))


def _space() -> Check:
    free = shutil.disk_usage(home_folder()).free
    text = f"{free / (1 << 30):.1f} GiB free"
    return Check("ok" if free >= FREE_BYTES else "warn", "Disk", text + ("" if free >= FREE_BYTES else "; free some"))


def _server() -> Check:
    if is_running(home_folder()):
        return Check("ok", "Server", "answers")
    return Check("ok", "Server", "does not run; it starts by itself, or with: runyard up")


def _store() -> list[Check]:
    info = find_server_info() if is_running(home_folder()) else None
    found = info.store if info else None
    if found is None:
        return []
    return [Check("fail" if found.problem else "ok", "Store", found.problem or f"files lie in {found.place}")]


def _isolation() -> Check:
    """What keeps jobs apart from the server: what it says itself, or would find here."""
    info = find_server_info() if is_running(home_folder()) else None
    asked = os.environ.get(VARIABLE, "").strip()
    try:
        found = info.isolation if info else isolation_here(asked, str(home_folder()))
        problem = info.isolation_problem if info else isolation_problem(asked, str(home_folder()))
    except RunyardError as error:
        return Check("fail", "Isolation", str(error))
    return Check("warn" if problem else "ok", "Isolation", found + (f"; {problem}" if problem else ""))


def _bare_name() -> Check:
    """Whose ``azureml`` an import finds; nothing of it is loaded."""
    found = importlib.util.find_spec("azureml")
    if found is None or not found.submodule_search_locations:
        return Check("warn", "azureml", "not importable; install runyard-azureml, or import runyard.azureml.core")
    origin = found.origin or next(iter(found.submodule_search_locations))
    if "runyard" in origin:
        return Check("ok", "azureml", "is Runyard's")
    return Check(
        "warn", "azureml", f"is another package's ({origin}), which wins; uninstall azureml-core to use Runyard's"
    )


def _pythons() -> Check:
    found = sorted({".".join(map(str, one.version[:2])) for one in find_interpreters()})
    return Check("ok", "Pythons", ", ".join(found) + " for environments")


def _systemd() -> list[Check]:
    if "INVOCATION_ID" not in os.environ:
        return []
    return [Check("warn", "systemd", "a service that runs Runyard needs KillMode=process, or its stop ends every run")]
