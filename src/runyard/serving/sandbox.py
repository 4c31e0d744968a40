"""Where a service's processes run: without a network, on read-only files, with a scratch folder that goes with them."""

import os
import subprocess
import sys
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from runyard.environments.confinement import basic_words
from runyard.protocol.plan import Isolation
from runyard.protocol.services import Revision

#: What a process may write to is its own, in memory, goes with it, and holds at most so many bytes each.
_SCRATCH, SCRATCH_BYTES = ("/tmp", "/dev/shm", "/run"), 1 << 30


class Cell(NamedTuple):
    """What a process may see: its Isolation, the homes that are hidden, what is shown all the same, where it works."""

    isolation: str
    hidden: Tuple[str, ...]
    readable: Tuple[str, ...]
    work: str


def model_cell(revision: Revision) -> Cell:
    """Where a revision's model is loaded, or compiled."""
    return Cell(revision.isolation, revision.hidden, revision.readable, revision.work)


def front_cell(isolation: str, hidden: Sequence[str]) -> Cell:
    """Where a front is: what it serves comes by descriptors, so it sees its own program alone."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return Cell(isolation, tuple(hidden), (package, sys.prefix, sys.base_prefix), package)


def started(
    cell: Cell, command: List[str], variables: Dict[str, str], log: int, sockets: Sequence[int],
    readable: Sequence[str] = (), writable: str = "", enter: Optional[Callable[[], None]] = None,
) -> "subprocess.Popen[bytes]":  # fmt: skip
    """Start a process of a service, which ends with this one; ``enter`` brings it into its control group."""
    if cell.isolation != Isolation.HIDDEN:
        return subprocess.Popen(
            command, cwd=cell.work, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=tuple(sockets), start_new_session=True, preexec_fn=enter,
        )  # fmt: skip
    # Folders are shown where they truly are: an environment that is reached by a link must be named so too.
    folder, program = os.path.split(command[0])
    command = [os.path.join(os.path.realpath(folder), program), *command[1:]]
    settings = ["--clearenv", *(part for pair in variables.items() for part in ("--setenv", *pair))]
    read_end, write_end = os.pipe()
    # What a command line would show to everyone goes by a pipe; variables fit into it, or are written as it is read.
    words = [*sandbox_words(cell, readable, writable), "--args", str(read_end), "--", *command]
    try:
        process = subprocess.Popen(
            words, cwd="/", env={"PATH": os.defpath}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=(read_end, *sockets), start_new_session=True, preexec_fn=enter,
        )  # fmt: skip
        os.close(read_end)
        read_end = -1
        with os.fdopen(write_end, "wb") as file:
            write_end = -1
            file.write(b"".join(os.fsencode(one) + b"\0" for one in settings))
    finally:
        for one in (read_end, write_end):
            if one >= 0:
                os.close(one)
    return process


def sandbox_words(cell: Cell, readable: Sequence[str], writable: str = "") -> List[str]:
    """bubblewrap and all that it is told, but for the variables."""
    words = [*basic_words(is_read_only=True), "--unshare-net", "--unshare-ipc"]
    # A home that is the root of all, or does not exist, hides nothing.
    homes = {os.path.realpath(one) for one in cell.hidden if os.path.isdir(one)} - {"/"}
    empty = [*_SCRATCH, *sorted(homes)]
    for path in empty:
        words += ["--size", str(SCRATCH_BYTES), "--tmpfs", path]
    for place in sorted({os.path.abspath(one) for one in (*readable, *cell.readable, cell.work)}):
        real = os.path.realpath(place)
        if os.path.exists(real):
            words += ["--ro-bind", real, real]
            # What was named by a link has to be found by that name too, where the link is hidden.
            if real != place and any(place.startswith(one + "/") for one in empty):
                words += ["--ro-bind", real, place]
    if writable:
        words += ["--bind", writable, writable]
    for path in sorted(homes):
        words += ["--remount-ro", path]
    return [*words, "--chdir", os.path.realpath(cell.work)]
