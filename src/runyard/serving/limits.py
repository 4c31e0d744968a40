"""What a process of a service may take of its host: in a control group of its own, where this user may make one."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Optional, Set

from runyard.environments.control_groups import NO_SHARES, Group, Shares, make_group, processes_max, remove_group
from runyard.protocol.services import Deployment

#: Processes and threads of one that has a model; no setting of a service or a server changes that.
PROCESSES_MAX = 1_024
#: Without a limit of its own it has this part of the host's memory: what leaks is ended, and nothing beside it.
HOST_PART = 0.9
#: How long the kernel may take to have no process of a group any more, once they are killed, seconds.
_EMPTY_S = 0.5


class Limits:
    """The groups of one revision's processes, by number."""

    def __init__(self, folder: Path, deployment: Deployment, say: Callable[[str], None]) -> None:
        """``folder`` is the revision's; ``say`` takes a sentence for the service's log.

        Of replicas on this host: those that are runs of a cluster have what control/service_runs.py, ``run_pattern``,
        asks for.
        """
        self._prefix = "runyard-service-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
        self._memory_gb = deployment.memory_gb_limit
        self._shares = Shares(
            deployment.cpu,
            deployment.cpu_limit,
            None if deployment.memory_gb is None else int(deployment.memory_gb * 1e9),
        )
        self._say, self._has_told = say, False
        self._groups: Dict[int, Group] = {}
        #: Of processes that have just ended, and may not be gone from their groups.
        self._left: Set[int] = set()

    def enter(self, number: int, is_preparing: bool = False) -> Optional[Callable[[], None]]:
        """What brings a process that is started into its group; None where this user may make none.

        One that is preparing the model has its part of the processors as every other process, however little of them
        those that answer are to have.
        """
        name, most = self._name(number), min(PROCESSES_MAX, processes_max(None) or PROCESSES_MAX)
        memory = self._memory_bytes()
        # One of an earlier process of that number would tell of what that one took.
        remove_group(name)
        kept = Shares(memory_bytes=self._shares.memory_bytes)
        asked = kept if is_preparing else self._shares
        # What cannot all be held is held in part; where nothing of the processors is asked for, two of these are one.
        for memory_bytes, shares in dict.fromkeys(((memory, asked), (memory, kept), (None, NO_SHARES))):
            group = make_group(name, memory_bytes, most, shares=shares)
            if group is not None:
                self._groups[number] = group
                return group.enter
            if shares.cores_max is not None:
                self._tell()
        return None

    def exceeded(self, number: int) -> str:
        """What a process that has ended took too much of, as the end of a sentence; '' if nothing."""
        group = self._groups.get(number)
        if group is None or not group.is_out_of_memory():
            return ""
        if self._memory_gb is None:
            return "took almost all the memory that the host has"
        return f"took more than {self._memory_gb:g} GB of memory"

    def drop(self, number: int) -> None:
        """Take away the group of a process that has ended."""
        if self._groups.pop(number, None) is not None:
            self._left.add(number)
        for one in list(self._left):
            if remove_group(self._name(one)):
                self._left.discard(one)

    def close(self) -> None:
        """Take every group away: all processes have ended, or are about to."""
        for number in self._left | self._groups.keys():
            remove_group(self._name(number), wait_s=_EMPTY_S)

    def _tell(self) -> None:
        """Say, once, that a limit on the processors is not held; what a process should have is a wish."""
        if not self._has_told:
            self._has_told = True
            self._say(
                f"cpu_cores_limit={self._shares.cores_max:g} is not held: this server's user may make no control group "
                "for it"
            )

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def _memory_bytes(self) -> Optional[int]:
        if self._memory_gb is not None:
            return int(self._memory_gb * 1e9)
        with suppress(OSError, ValueError):
            return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * HOST_PART)
        return None
