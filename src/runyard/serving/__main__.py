"""``python -m runyard.serving <folder of a service>``: its supervisor, in a session of its own."""

import fcntl
import os
import sys
from pathlib import Path
from typing import Sequence

from runyard.protocol.services import PORT_TAKEN, REFUSED_FILE, SERVICE_TAKEN
from runyard.serving.supervisor import PortTakenError, Supervisor


def main(arguments: Sequence[str]) -> int:
    """Supervise; the exit code is 0, SERVICE_TAKEN or PORT_TAKEN."""
    folder = Path(arguments[0])
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return SERVICE_TAKEN
    try:
        return Supervisor(folder).run()
    except PortTakenError as error:
        (folder / REFUSED_FILE).write_text(str(error), "utf-8")
        return PORT_TAKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
