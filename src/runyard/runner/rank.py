"""What mpirun runs for each rank, on every node in the same words: a fixed program for /bin/sh, which becomes the rank.

A shell starts in a tenth of an interpreter's time, and a run has as many as ranks. What belongs to the rank alone
stands in a file that the node's runner has written; the shell reads it as data, and runs nothing of it but the last:
its log, its working folder, its variables, an empty text, its command. The output goes straight to the log.
"""

import os
from pathlib import Path
from typing import Dict, Sequence

#: A line of the file begins with "." where a text ends with it, else with "+". The shell's own names are such as no
#: job has: a variable that comes from outside would be handed down with the value that it has here.
_PROGRAM = """
exec 9<>"$RUNYARD_LAUNCHES/$OMPI_COMM_WORLD_RANK.rank"
: >"$RUNYARD_LAUNCHES/$OMPI_COMM_WORLD_RANK.begun"
RUNYARD_TEXT= RUNYARD_LINE_END='
'
set --
while IFS= read -r RUNYARD_LINE; do
  case $RUNYARD_LINE in
    .*) set -- "$@" "$RUNYARD_TEXT${RUNYARD_LINE#.}"; RUNYARD_TEXT= ;;
    *) RUNYARD_TEXT=$RUNYARD_TEXT${RUNYARD_LINE#+}$RUNYARD_LINE_END ;;
  esac
done <"$RUNYARD_RANKS/$OMPI_COMM_WORLD_RANK" || exit
unset RUNYARD_RANKS
exec >>"$1" 2>&1
cd "$2" || exit
shift 2
while [ "$1" ]; do export "$1"; shift; done
shift
exec "$@"
"""

#: mpirun's words for each rank.
COMMAND = ("/bin/sh", "-c", _PROGRAM)


def write_rank(
    ranks: Path, rank: int, log: Path, work: Path, variables: Dict[str, str], command: Sequence[str]
) -> None:
    """Write down, in the folder ``ranks``, what that rank is."""
    texts = [str(log), str(work), *(f"{name}={text}" for name, text in variables.items()), "", *command]
    (ranks / str(rank)).write_bytes(b"".join(_lines(os.fsencode(text)) for text in texts))


def make_life(launches: Path, rank: int) -> None:
    """Make the pipe that the rank holds open for as long as it lives, whatever it becomes."""
    path = str(launches / f"{rank}.rank")
    os.mkfifo(path)
    # The job may have another user than this process; the folder is closed to everybody else.
    os.chmod(path, 0o666)


def has_ended(launches: Path, rank: int) -> bool:
    """Has that rank begun, and ended? What is there may be the job's own: nothing is waited for or followed."""
    if not os.path.exists(f"{launches}/{rank}.begun"):
        return False
    try:
        handle = os.open(f"{launches}/{rank}.rank", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not os.read(handle, 1)
    except OSError:
        # Nothing to read, and somebody who could write.
        return False
    finally:
        os.close(handle)


def _lines(text: bytes) -> bytes:
    if b"\n" not in text:
        return b"." + text + b"\n"
    *before, last = text.split(b"\n")
    return b"".join(b"+" + one + b"\n" for one in before) + b"." + last + b"\n"
