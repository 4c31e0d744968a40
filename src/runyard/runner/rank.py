"""Becomes one process of MPI: started by mpirun on each node with the job's own Python, on its own and by path.

mpirun gives every rank the same command and the variables of its node; what belongs to the rank alone stands in a file
that the node's runner has written. The output goes straight to the rank's own log.
"""

import json
import os


def main() -> None:
    """Read what this rank is, and be it."""
    rank = os.environ["OMPI_COMM_WORLD_RANK"]
    with open(os.environ.pop("RUNYARD_RANKS"), encoding="utf-8") as file:
        mine = json.load(file)[rank]
    log = os.open(mine["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(mine["work"])
    os.environ.update(mine["variables"])
    os.execvp(mine["command"][0], mine["command"])


if __name__ == "__main__":
    main()
