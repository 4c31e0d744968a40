"""What a job may take of this node: in a control group of its own, where this user may make one."""

import threading
from pathlib import Path
from typing import Callable, Dict, List, Optional

from runyard.environments.control_groups import PROC, Group, make_group, processes_max, remove_group, why_not
from runyard.runner.folder import AttemptFolder, host_name_of
from runyard.runner.processes import Script, descendants
from runyard.runner.team import Launcher

#: How long the kernel may take to have none of a job's processes any more, once they have ended, seconds.
EMPTY_S = 0.5


class Limits:
    """What one attempt's job may take of this node."""

    def __init__(self, folder: AttemptFolder, proc: Path = PROC) -> None:
        plan = folder.plan
        self._name, self._proc = host_name_of(folder.key), proc
        # An image's engine has limits of its own, by docker.arguments.
        is_ours = plan.container is None
        self.memory_bytes = plan.memory_bytes if is_ours else None
        #: Of processes and threads; None: as many as the host lets it.
        self.processes_max = processes_max(plan.processes_max) if is_ours else None
        self._group: Optional[Group] = None
        self._lock = threading.Lock()
        self._taking: List[threading.Thread] = []

    def make(self) -> str:
        """Make the group, where the memory counts; returns why that is not limited, else ''."""
        if self.memory_bytes is None:
            return ""
        self._group = make_group(self._name, self.memory_bytes, self.processes_max, self._proc)
        return why_not(self._proc) if self._group is None else ""

    @property
    def enter(self) -> Optional[Callable[[], None]]:
        """What brings a process into the group before it becomes the job's; None: it is brought there later."""
        return None if self._group is None else self._group.enter

    def held(self, launch: Launcher) -> Launcher:
        """Starts processes as that does, and holds them to their number.

        Where they cannot begin in their group, they are brought there beside their start, for which the kernel takes
        some 15 ms: a program is longer about starting another. What it has started by then comes too.
        """
        if self.processes_max is None or self._group is not None:
            return launch

        def start(command: List[str], variables: Dict[str, str], work: Path, log: Path) -> Script:
            if self._group is None:
                self._group = make_group(self._name, None, self.processes_max, self._proc)
            if self._group is None:
                return launch(command, variables, work, log)
            with self._group.around() as is_inside:
                script = launch(command, variables, work, log)
            if not is_inside:
                thread = threading.Thread(target=self._take, args=(self._group, script.pid), name="limits", daemon=True)
                self._taking.append(thread)
                thread.start()
            return script

        return start

    def exceeded(self) -> str:
        """What it took too much of, as the end of a sentence; '' if nothing."""
        if self._group is not None and self.memory_bytes is not None and self._group.is_out_of_memory():
            return f"used more than {self.memory_bytes / (1 << 30):g} GiB of memory, as much as it may have on a node"
        if self._group is not None and self._group.is_out_of_processes():
            return f"wanted more than the {self.processes_max} processes and threads that it may have at once on a node"
        return ""

    def close(self) -> None:
        """Take the group away, whichever runner of the attempt has made it; its processes have ended."""
        for thread in self._taking:
            thread.join()
        if self._group is not None:
            self._group.remove(EMPTY_S)
        elif self.memory_bytes is not None or self.processes_max is not None:
            remove_group(self._name, self._proc, EMPTY_S)

    def _take(self, group: Group, pid: int) -> None:
        with self._lock:
            group.take(pid, descendants)
