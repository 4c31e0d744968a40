"""``python -m runyard.serving <folder of a service>``: its supervisor, in a session of its own."""

import fcntl
import os
import sys
from pathlib import Path
from typing import Sequence

from runyard.serving.supervisor import PortTakenError, Supervisor


def main(arguments: Sequence[str]) -> int:
    """Supervise; 3 where another supervisor has this service already, 4 where its port is taken."""
    folder = Path(arguments[0])
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 3
    try:
        return Supervisor(folder).run()
    except PortTakenError as error:
        (folder / "refused.txt").write_text(str(error), "utf-8")
        return 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
