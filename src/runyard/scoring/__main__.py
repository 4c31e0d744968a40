"""A model's own process: loads it, answers the front over the socket that it was started with, ends with that socket.

``python -m runyard.scoring <socket's number> <plan.json>``
"""

import json
import os
import socket
import sys
from typing import Sequence

from runyard.scoring.loaded import Loaded, tell_failure


def main(arguments: Sequence[str]) -> int:
    """Serve until the front is gone."""
    line = socket.socket(fileno=int(arguments[0]))
    with open(arguments[1], encoding="utf-8") as file:
        plan = json.load(file)
    try:
        loaded = Loaded(plan)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a script too: told, not lost
        tell_failure(line, error)
        return 1
    loaded.serve(line)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv[1:]))
