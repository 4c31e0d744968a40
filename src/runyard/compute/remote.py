"""What every engine beside this host needs: the program of a node, with all that it must know of one attempt."""

import json
import os
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional

from runyard.environments.archive import make_archive
from runyard.environments.uv import index_settings
from runyard.errors import ServiceException
from runyard.protocol.plan import LaunchPlan, RemoteLaunch
from runyard.protocol.record import record
from runyard.protocol.wire import dumps

#: Another time after which an attempt that nobody sees, and that does not reach the server, ends itself, seconds.
FENCE_VARIABLE, FENCE_S = "RUNYARD_FENCE_SECONDS", 900.0
#: How often an engine is told at the most that an attempt is to stop or be killed, seconds; control asks each second.
TOLD_S = 10.0

#: What nodes are told as the server's machine has it, unless they know better (runner/tidy.py, runner/usage.py).
NODE_SETTINGS = ("RUNYARD_NODE_KEEP_GIB", "RUNYARD_GPU_IDLE_MINUTES")


def node_settings(source: Mapping[str, str]) -> Dict[str, str]:
    """Of ``source``, what nodes are told."""
    return {name: source[name] for name in NODE_SETTINGS if name in source}


def read_fence_s() -> float:
    """That time, as the server's machine has it."""
    text = os.environ.get(FENCE_VARIABLE, "")
    return float(text) if text.isdigit() else FENCE_S


#: How a run says that it waits for an engine; the reason follows.
WAITS_FOR_ANSWER = "Waits for its compute target to answer: "


class EngineAwayError(ServiceException):
    """The engine does not answer now: control tries again as often as it takes, and the run says what it waits for."""


@record
class Reach:
    """What of this server its engines need: how nodes reach it, what opens secrets, where their own files lie."""

    #: Address of the server as nodes know it; asked each time, since the port may be another one after a start.
    url: Callable[[], str]
    #: Holds what nodes fetch from the server: the archive of the runner.
    files_folder: Path
    #: Tells this server's attempts from those of another one at the same engine.
    mark: str
    #: An Isolation; '': as each node can.
    isolation: str
    #: The host keys of machines, as this server first saw them.
    known_hosts: Path
    #: Seals a text for a place, and opens it there; None: by another home, or for another place.
    seal: Callable[[str, str], str]
    unseal: Callable[[str, str], Optional[str]]
    #: Where this server writes down its address, for nodes that are this host.
    server_file: Path = Path()
    #: Holds the Rays that this server starts on this host.
    heads_folder: Path = Path()


def node_program(
    reach: Reach, plan: LaunchPlan, secret: str, number_variable: str, folder: str, is_here: bool = False
) -> str:
    """The text that a node runs as ``python3 - runyard-supervise``; the token in it is on no command line.

    The word is for whoever lists processes.

    ``number_variable``: where the engine tells a node which of the run's nodes it is; '': there is one.
    ``is_here``: the node is this host, where a server that is started again is found at whatever address it has then.
    """
    launch = RemoteLaunch(
        server_url=reach.url(),
        secret=secret,
        archive=make_archive(reach.files_folder),
        plan=plan,
        isolation=reach.isolation,
        number_variable=number_variable,
        folder=folder,
        index_settings={**index_settings(os.environ), **node_settings(os.environ)},
        server_file=str(reach.server_file) if is_here else None,
    )
    source = Path(__file__).with_name("bootstrap.py").read_text(encoding="utf-8")
    return f"MESSAGE = {json.dumps(dumps(launch))}\n{source}"
