"""``python -m runyard.client.observer``: sends the rest of what a process logged once that process is gone, and ends
the runs that it left.

The process holds the other end of our standard input, a pipe: when it closes, by whatever death, nobody is there any
more. Until then this sleeps, with nothing imported that it may never need.

Each line of the input is a ``Left`` as JSON; a later one of the same key replaces it, and one without a run takes it
back.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

if TYPE_CHECKING:
    from runyard.client.http import Server

#: How long a server that is away is waited for, and between two tries, seconds.
PATIENCE_S, PAUSE_S = 600.0, 1.0


def observe(lines: Any, tell: Any) -> None:
    """Read to the end of ``lines``, then do what is left; ``tell()`` once that is done, or must be waited for."""
    left: Dict[str, Dict[str, Any]] = {}
    for line in lines:
        found = json.loads(line)
        left.pop(found["key"], None)
        if "run" in found:
            left[found["key"]] = found
    ends_at = time.monotonic() + PATIENCE_S
    # Values first: a run that has ended should have them all.
    waiting = sorted(left.values(), key=_is_end)
    while waiting:
        waiting = [one for one in waiting if not _is_done(one)]
        if not waiting or time.monotonic() > ends_at:
            break
        tell()
        time.sleep(PAUSE_S)
    tell()


def _is_end(one: Dict[str, Any]) -> bool:
    return one.get("status") is not None


def _is_done(one: Dict[str, Any]) -> bool:
    """Is there nothing more to do? False while the server is away."""
    from runyard.errors import RunyardError, ServerUnreachableError

    try:
        server = _server(one)
        if _is_end(one):
            _end_run(server, one)
        else:
            _ship(server, one)
    except ServerUnreachableError:
        return False
    except (RunyardError, OSError):
        # The server refuses, or the files are gone: another try would end the same way.
        pass
    return True


def _server(one: Dict[str, Any]) -> "Server":
    """The server of a home, which is not started for this, or the one at an address."""
    from runyard.client.home import read_token, server_file, token_file
    from runyard.client.http import Server, file_resolver

    token: Optional[str] = os.environ.get("RUNYARD_TOKEN")
    if one.get("home") is None:
        url = str(one["url"])
        return Server(lambda: url, token or "", PAUSE_S)
    home = Path(one["home"])
    return Server(file_resolver(server_file(home)), token or read_token(token_file(home)), PAUSE_S)


def _ship(server: "Server", one: Dict[str, Any]) -> None:
    import shutil

    from runyard.client.shipper import MetricsShipper

    names: Dict[str, Any] = {"workspace": one["workspace"], "run_id": one["run"]}
    MetricsShipper(one["folder"], 1, lambda body: server.call("add_metrics", body, **names).sequence).ship()
    shutil.rmtree(one["folder"], ignore_errors=True)


def _end_run(server: "Server", one: Dict[str, Any]) -> None:
    from runyard.protocol.runs import RunChange

    change = RunChange(status=one["status"], error=one.get("error"))
    server.call("change_run", change, workspace=one["workspace"], run_id=one["run"])


def _tell() -> None:
    """Close the standard output, for which the process that ends may wait."""
    try:
        os.close(1)
    except OSError:
        pass


if __name__ == "__main__":
    observe(sys.stdin, _tell)
