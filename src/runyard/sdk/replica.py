"""A replica of a service as a run of a cluster: comes to the service's front, proves its run, answers for the model.

``python -m runyard.sdk.replica`` in the run's working folder, which has the model's files and the script's. It ends
when its front says so, or when its server knows of no service that has it; a front that is away is looked for.
"""

import os
import socket
import ssl
import sys
import time
from typing import Any, Dict, Optional
from urllib.parse import urlsplit

from runyard.errors import NotFoundError, PermissionDeniedError, RunyardError, ServerUnreachableError
from runyard.protocol.services import ReplicaPlan, replica_proof
from runyard.scoring import frames
from runyard.scoring.loaded import Loaded, tell_failure
from runyard.sdk.session import current_server

#: Between two looks for the front, at first and later, seconds; and how long one connection may take.
LOOK_S, LOOK_MAX_S, CONNECT_S = 0.2, 5.0, 10.0
#: A front that listens and cannot be reached from here for so long never will be, nor will a server, seconds.
UNREACHABLE_S, NO_SERVER_S = 120.0, 600.0


def main() -> int:
    """Serve until it is not wanted any more; the exit code is 1 where the model cannot be loaded or nobody reached."""
    run_id = os.environ["AZUREML_RUN_ID"]
    names: Dict[str, Any] = {"workspace": os.environ["AZUREML_ARM_WORKSPACE_NAME"], "run_id": run_id}
    loaded: Optional[Loaded] = None
    plan: Optional[ReplicaPlan] = None
    failing_since: Optional[float] = None
    pause_s, must_ask = LOOK_S, True
    while True:
        try:
            plan = _ask(names, plan) if must_ask else plan
            must_ask = True
            if plan is not None and plan.port:
                with _connect(plan, run_id) as line:
                    # The next front may be where this one is, also while the server is away.
                    failing_since, pause_s, must_ask = None, LOOK_S, False
                    if loaded is None:
                        loaded = _load(plan, line)
                    if loaded is None:
                        return 1
                    if loaded.serve(line):
                        print("This replica is not needed any more.", flush=True)
                        return 0
                print("The service's front is gone; this replica looks for the next one.", flush=True)
        except NotFoundError as error:
            print(f"This replica ends: {error}", flush=True)
            return 0
        except (OSError, _Refused, ServerUnreachableError) as error:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if loaded is None and now - failing_since > (NO_SERVER_S if plan is None else UNREACHABLE_S):
                what = "server" if plan is None else f"service at {_host()}:{plan.port}"
                print(f"The {what} cannot be reached from this node: {error}", file=sys.stderr, flush=True)
                return 1
        time.sleep(pause_s)
        pause_s = min(LOOK_MAX_S, pause_s * 1.5)


class _Refused(Exception):
    """Whoever listens there is no front of ours, or does not know this run."""


def _ask(names: Dict[str, Any], known: Optional[ReplicaPlan]) -> Optional[ReplicaPlan]:
    """What to do and where to go now, or what was known where the server is away. NotFoundError: not wanted any more.

    ServerUnreachableError where the server is away and nothing is known.
    """
    try:
        found: ReplicaPlan = current_server().call("read_replica_plan", **names)
        return found
    except (NotFoundError, PermissionDeniedError) as error:
        raise NotFoundError(str(error)) from None
    except ServerUnreachableError:
        if known is None:
            raise
        return known
    except RunyardError as error:
        print(f"The server does not say where the service is: {error}", flush=True)
        return known


def _host() -> str:
    return urlsplit(current_server().address()).hostname or "127.0.0.1"


def _connect(plan: ReplicaPlan, run_id: str) -> Any:
    """A line to the front, which has let this run in."""
    host = _host()
    line: Any = socket.create_connection((host, plan.port), timeout=CONNECT_S)
    try:
        frames.keep_alive(line)
        if plan.has_tls:
            # As the runner checks its server: by the certificates that this machine trusts.
            line = ssl.create_default_context().wrap_socket(line, server_hostname=host)
        greeting = _said(line)
        frames.send(line, {"run": run_id, "proof": replica_proof(plan.secret, str(greeting.get("nonce")))})
        if not _said(line).get("welcome"):
            raise _Refused("it does not let this run in")
        line.settimeout(None)
    except BaseException:
        line.close()
        raise
    return line


def _said(line: Any) -> Dict[str, Any]:
    try:
        message = frames.receive(line)
    except (ValueError, MemoryError):
        raise _Refused("it does not speak as a front does") from None
    if message is None:
        raise _Refused("it has closed the connection")
    return message[0]


def _load(plan: ReplicaPlan, line: Any) -> Optional[Loaded]:
    """The model; None where it cannot be loaded, which the front has heard then."""
    root = os.getcwd()
    os.environ.update({name: text.replace("{app}", root) for name, text in plan.variables.items()})
    places = ("entry_script", "model")
    scoring = {name: os.path.join(root, text) if name in places else text for name, text in plan.scoring.items()}
    try:
        return Loaded(scoring)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a script too: told, not lost
        tell_failure(line, error)
        return None


if __name__ == "__main__":
    sys.exit(main())
