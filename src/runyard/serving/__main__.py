"""``python -m runyard.serving <folder of a service>``: its supervisor, in a session of its own.

``python -m runyard.serving --spare <server's socket> <isolation> <hidden folder>...``: one that is started before its
service is known, with a front, and waits until the server names the folder; it ends if that ends first.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Optional, Sequence

from runyard.protocol.services import PORT_TAKEN, REFUSED_FILE, SERVICE_TAKEN
from runyard.serving.front_process import FrontProcess
from runyard.serving.orders import receive_order
from runyard.serving.sandbox import front_cell
from runyard.serving.supervisor import PortTakenError, Supervisor


def main(arguments: Sequence[str]) -> int:
    """Supervise; the exit code is 0, SERVICE_TAKEN or PORT_TAKEN."""
    if arguments[0] != "--spare":
        return _supervise(Path(arguments[0]))
    with open(os.devnull, "wb") as nowhere:
        # It has the service's log once there is one; until then what goes wrong shows in its successor.
        front = FrontProcess(front_cell(arguments[2], arguments[3:]), nowhere.fileno())
    folder = _named(int(arguments[1]))
    if folder is None:
        front.end()
        return 0
    return _supervise(folder, front)


def _named(descriptor: int) -> Optional[Path]:
    """The folder that the server names, whose log this process writes to from then on; None where the server ends."""
    with socket.socket(fileno=descriptor) as line:
        order, descriptors = receive_order(line)
    if not order:
        return None
    (log,) = descriptors
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    return Path(order["folder"])


def _supervise(folder: Path, spare: Optional[FrontProcess] = None) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return SERVICE_TAKEN
    try:
        supervisor = Supervisor(folder, spare)
        code = supervisor.run()
    except PortTakenError as error:
        (folder / REFUSED_FILE).write_text(str(error), "utf-8")
        return PORT_TAKEN
    if supervisor.begins_anew:
        os.execv(sys.executable, [sys.executable, "-m", "runyard.serving", str(folder)])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
