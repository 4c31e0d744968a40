"""Becomes one process of MPI: started by mpirun on each node with the job's own Python, on its own and by path.

mpirun gives every rank the same command and the variables of its node; what belongs to the rank alone stands in a file
that the node's runner has written: texts, each ended by a NUL, since to import json costs more than all the rest. The
output goes straight to the rank's own log.
"""

import fcntl
import os


def main() -> None:
    """Read what this rank is, and be it."""
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    with open(os.path.join(os.environ.pop("RUNYARD_RANKS"), rank), "rb") as file:
        log_path, work, count, *rest = [os.fsdecode(one) for one in file.read().split(b"\0")[:-1]]
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    _show_life(os.path.join(os.environ["RUNYARD_LAUNCHES"], rank + ".rank"))
    os.chdir(work)
    for variable in rest[: int(count)]:
        name, _, text = variable.partition("=")
        os.environ[name] = text
    command = rest[int(count) :]
    os.execvp(command[0], command)


def _show_life(path: str) -> None:
    """Hold that file locked for as long as this process lives, whatever it becomes; runner/mpi_ranks.py looks there."""
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    os.rename(path + ".new", path)


if __name__ == "__main__":
    main()
