"""What the nodes of one attempt tell each other, by way of the server: where they are, how far, and how they ended."""

from typing import Optional, Tuple

from runyard.protocol.distributed import Place
from runyard.protocol.plan import Report
from runyard.protocol.record import record


class Phase:
    """How far a node is; only ever to a later one."""

    PREPARING = "preparing"
    #: Its environment and data are there; it waits for the others.
    READY = "ready"
    RUNNING = "running"
    #: None of its processes is left.
    ENDED = "ended"
    #: What it leaves behind is in the run's record.
    STORED = "stored"


#: In their order.
PHASES = (Phase.PREPARING, Phase.READY, Phase.RUNNING, Phase.ENDED, Phase.STORED)


@record
class NodeLaunch:
    """What mpirun asks node 0 to start on another one."""

    #: From 1.
    number: int
    node: int
    words: Tuple[str, ...]


@record
class NodeReport:
    """A node as it is now; each report takes the place of the one before it."""

    attempt: int
    #: From 0; the first node speaks for the run.
    node: int
    #: Grows with each change.
    revision: int = 0
    phase: str = Phase.PREPARING
    place: Optional[Place] = None
    #: How many of its processes other than parameter servers still run, once they do.
    workers_left: int = 0
    #: Under mpirun: which of its ranks still run.
    ranks_left: Tuple[int, ...] = ()
    #: How its processes ended.
    end: Optional[Report] = None
    #: The rank that failed first, as far as this node knows.
    blamed: Optional[int] = None
    #: When it ended by the server's clock, UTC microseconds; the server fills it in.
    ended_at: Optional[int] = None
    #: What kept its files out of the record.
    failure: str = ""
    #: Of node 0: what others are to start.
    launches: Tuple[NodeLaunch, ...] = ()
    #: Of the others: (number of a launch, its exit code) of those that are over.
    launched: Tuple[Tuple[int, int], ...] = ()


@record
class Meeting:
    """Every node that has reported in this attempt, by number."""

    nodes: Tuple[NodeReport, ...]
    #: The sum of their revisions: it grows with every change of one of them.
    revision: int
    cancel_requested: bool = False
