"""Which ranks of MPI still run: each holds a file of its own locked while it lives (runner/rank.py)."""

import fcntl
import os
import time
from typing import List, Optional, Sequence, Tuple

from runyard.protocol.distributed import tasks_of
from runyard.protocol.meeting import NodeReport, Phase
from runyard.runner.folder import AttemptFolder
from runyard.runner.team import patience_s

#: How often they are looked at, seconds.
LOOK_S = 0.5


class Ranks:
    """Those of one node."""

    def __init__(self, folder: AttemptFolder) -> None:
        self._folder = folder
        self._left = [task.rank for task in folder.tasks]
        self._look_at = 0.0

    def left(self) -> Tuple[int, ...]:
        """Those that have not ended; one that has not begun is among them. As of the last LOOK_S."""
        if time.monotonic() >= self._look_at:
            self._left = [rank for rank in self._left if not self._has_ended(rank)]
            self._look_at = time.monotonic() + LOOK_S
        return tuple(self._left)

    def _has_ended(self, rank: int) -> bool:
        path = str(self._folder.path / "launches" / f"{rank}.rank")
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True


class Stragglers:
    """On the first node: finds ranks that go on for long after the others have ended, which mpirun never does."""

    def __init__(self, folder: AttemptFolder) -> None:
        self._folder = folder
        asked = folder.plan.distribution
        assert asked is not None
        self._everyone = tasks_of(asked, folder.plan.node_count)
        self._count = len(self._everyone)
        self._last_end: Optional[float] = None

    def find(self, own: Sequence[int], others: Sequence[NodeReport]) -> Optional[int]:
        """The first rank that has had its time since the last end of another one; None where there is none."""
        left: List[int] = list(own)
        for one in self._everyone:
            if one.node != self._folder.node and _may_run(one.node, one.rank, others):
                left.append(one.rank)
        if len(left) < self._count:
            self._count, self._last_end = len(left), time.monotonic()
        is_late = self._last_end is not None and time.monotonic() - self._last_end > patience_s(self._folder)
        return min(left) if left and is_late else None


def _may_run(node: int, rank: int, others: Sequence[NodeReport]) -> bool:
    """Is that rank of another node not known to have ended?"""
    told = next((one for one in others if one.node == node), None)
    return told is None or told.phase not in (Phase.RUNNING, Phase.ENDED, Phase.STORED) or rank in told.ranks_left
