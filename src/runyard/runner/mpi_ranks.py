"""Which ranks of MPI still run: each holds a pipe of its own open while it lives (runner/rank.py)."""

import time
from typing import Optional, Sequence, Tuple

from runyard.protocol.distributed import Task
from runyard.protocol.meeting import NodeReport
from runyard.runner.folder import AttemptFolder
from runyard.runner.rank import has_ended
from runyard.runner.team import Patience, is_under_way

#: How often they are looked at, seconds.
LOOK_S = 1.0


class Ranks:
    """Those of one node."""

    def __init__(self, folder: AttemptFolder) -> None:
        self._folder = folder
        self._left = [task.rank for task in folder.tasks]
        self._look_at = 0.0

    def left(self) -> Tuple[int, ...]:
        """Those that have not ended; one that has not begun is among them. As of the last LOOK_S."""
        if time.monotonic() >= self._look_at:
            launches = self._folder.path / "launches"
            self._left = [rank for rank in self._left if not has_ended(launches, rank)]
            self._look_at = time.monotonic() + LOOK_S
        return tuple(self._left)


class Stragglers:
    """On the first node: finds ranks that go on for long after the others have ended, which mpirun never does."""

    def __init__(self, folder: AttemptFolder, everyone: Sequence[Task]) -> None:
        self._node = folder.node
        self._own = Ranks(folder)
        self._everyone = everyone
        self._patience = Patience(folder, len(everyone))
        self._look_at = 0.0

    @property
    def remark(self) -> str:
        """What is said of one."""
        return self._patience.remark

    def find(self, nodes: Sequence[NodeReport]) -> Optional[Task]:
        """The first rank that has had its time since the last end of another one; None where there is none, or where
        it is too soon to look again."""
        if time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_S
        own, told = self._own.left(), {one.node: one for one in nodes}
        left = [
            one
            for one in self._everyone
            if (one.rank in own if one.node == self._node else _may_run(one, told.get(one.node)))
        ]
        is_late = self._patience.is_over(len(left))
        return left[0] if left and is_late else None


def _may_run(task: Task, told: Optional[NodeReport]) -> bool:
    """Is that rank of another node not known to have ended?"""
    return told is None or not is_under_way(told) or task.rank in told.ranks_left
