"""uv as a subprocess: where it is, the environment it gets, its lines as they come."""

import collections
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import IO, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

from runyard.errors import EnvironmentBuildError
from runyard.files.processes import signal_group
from runyard.protocol.environments import without_credentials
from runyard.protocol.record import record

Log = Callable[[str], None]

#: How much of uv's output an error may quote.
TAIL_LINES = 20

#: How long uv may take to end after TERM before it is killed.
GRACE_S = 2.0

#: A line longer than this is cut; progress bars and minified tracebacks are of no use.
MAX_LINE_CHARACTERS = 4096

_KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "XDG_DATA_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "CC", "CXX",
    "CFLAGS", "LDFLAGS", "CUDA_HOME", "PKG_CONFIG_PATH", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK",
)  # fmt: skip
#: Later than any package.
FAR_AWAY = "2999-01-01"
_KEPT_ANY_CASE = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

#: uv reads no setting of pip's; a host that is set up for pip works all the same.
_FROM_PIP = (
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", ("UV_INDEX_URL",)),
    ("PIP_EXTRA_INDEX_URL", "UV_INDEX", ("UV_EXTRA_INDEX_URL",)),
    ("PIP_CERT", "SSL_CERT_FILE", ()),
)

#: Where packages come from, and by whose word.
_OF_A_SITE = frozenset(
    ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INSECURE_HOST",
     "UV_INDEX_STRATEGY", "UV_NATIVE_TLS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST",
     "PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR")
)  # fmt: skip

#: Settings of uv that would change what gets built, or where.
_DROPPED = frozenset(
    ("UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "UV_COMPILE_BYTECODE",
     "UV_LINK_MODE", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER", "UV_RESOLUTION", "UV_PRERELEASE",
     "UV_WORKING_DIR", "UV_PROJECT", "UV_NO_CACHE", "UV_ENV_FILE", "UV_CACHE_DIR", "UV_VENV_CLEAR", "UV_VENV_SEED")
)  # fmt: skip


@record
class UvResult:
    """How a call of uv ended."""

    code: int
    #: Standard output: the lock, where it prints one.
    output: str
    #: The last lines of its messages, without credentials.
    tail: Tuple[str, ...]


def dated(as_of: Optional[str], requirements: Sequence[str]) -> List[str]:
    """How uv is told to take only what was there on that day; None: whatever there is.

    The engine that reads our tables is exempt: it belongs to Runyard, and the environments of 2020 are older than it.
    """
    if as_of is None:
        return []
    is_exempt = any(re.match(r"pyarrow\s*(>=6$|==)", one) for one in requirements)
    return ["--exclude-newer", as_of, *(["--exclude-newer-package", f"pyarrow={FAR_AWAY}"] if is_exempt else [])]


def find_uv() -> str:
    """Path of the uv program: the one installed beside this Python, else on the PATH; EnvironmentBuildError if none."""
    try:
        from uv import find_uv_bin  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return str(find_uv_bin())
    except (ImportError, OSError):
        pass
    found = shutil.which("uv")
    if found is None:
        raise EnvironmentBuildError("Building an environment needs uv, which is not installed.", hint="pip install uv")
    return found


def uv_cache_folder(root_folder: str) -> str:
    """Where uv keeps what it has fetched: the host's UV_CACHE_DIR, else a folder beside the environments.

    It must lie on the disk of the environments, since their files are hard links to it.
    """
    return os.environ.get("UV_CACHE_DIR") or os.path.join(root_folder, "caches", "uv")


def tool_environment(source: Mapping[str, str]) -> Dict[str, str]:
    """Of ``source``, what a package tool needs to reach its index; nothing that changes how Python runs or compiles."""
    kept = {
        name: value
        for name, value in source.items()
        if name in _KEPT or name.lower() in _KEPT_ANY_CASE or _is_index_setting(name)
    }
    for pip_name, uv_name, rivals in _FROM_PIP:
        if pip_name in kept and not any(name in kept for name in (uv_name,) + tuple(rivals)):
            kept[uv_name] = kept[pip_name]
    return kept


def index_settings(source: Mapping[str, str]) -> Dict[str, str]:
    """Of ``source``, where packages come from: another machine of the same site takes them from there too."""
    return {name: text for name, text in source.items() if name in _OF_A_SITE}


def _is_index_setting(name: str) -> bool:
    return name.startswith(("UV_", "PIP_")) and name not in _DROPPED


def run_uv(
    uv: str,
    arguments: Sequence[str],
    *,
    folder: str,
    log: Log,
    timeout_s: float,
    variables: Optional[Mapping[str, str]] = None,
) -> UvResult:
    """Run uv in ``folder``; each line of its messages goes to ``log`` as it comes, without credentials.

    ``variables`` are added to its environment.
    Blocks until it ends. On timeout (EnvironmentBuildError), or when the caller is interrupted, its whole process
    group is ended.
    """
    command = [uv, "--no-progress", "--color", "never", *arguments]
    return run_tool(command, folder=folder, log=log, timeout_s=timeout_s, variables=variables)


def run_tool(
    command: Sequence[str],
    *,
    folder: str,
    log: Log,
    timeout_s: float,
    variables: Optional[Mapping[str, str]] = None,
    logs_output: bool = False,
) -> UvResult:
    """As run_uv, for any program that builds. ``logs_output``: its standard output goes to ``log`` and not back."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**tool_environment(os.environ), **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if logs_output else subprocess.PIPE,
        start_new_session=True,
    )
    tail: Deque[str] = collections.deque(maxlen=TAIL_LINES)
    output: List[bytes] = []
    said = process.stdout if logs_output else process.stderr
    readers = [threading.Thread(target=_read_lines, args=(said, tail, log), daemon=True)]
    if not logs_output:
        readers.append(threading.Thread(target=_read_all, args=(process.stdout, output), daemon=True))
    try:
        for reader in readers:
            reader.start()
        code = process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise EnvironmentBuildError(
            "{} did not end within {:.0f} s; its last line was: {}".format(
                os.path.basename(command[0]), timeout_s, tail[-1] if tail else "(none)"
            )
        ) from None
    finally:
        _end_group(process)
        for reader in readers:
            if reader.ident is not None:
                reader.join(GRACE_S)
    return UvResult(code, b"".join(output).decode("utf-8", "replace"), tuple(tail))


def _read_lines(stream: IO[bytes], tail: Deque[str], log: Log) -> None:
    with stream as lines:
        for raw in lines:
            line = without_credentials(raw.decode("utf-8", "replace").rstrip()[:MAX_LINE_CHARACTERS])
            tail.append(line)
            log(line)


def _read_all(stream: IO[bytes], output: List[bytes]) -> None:
    with stream as source:
        output.append(source.read())


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the process group: nothing, if all went well."""
    signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()
