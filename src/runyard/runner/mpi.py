"""MPI by Open MPI's own mpirun, on the first node; what it starts on others, their runners start for it.

mpirun believes that it calls ssh. It calls mpi_agent.py, which leaves the request in a folder; the first node's runner
passes it on by way of the meeting, so that no node needs an sshd and none listens for commands.
"""

import json
import os
import re
import shlex
import shutil
import signal
import time
from typing import Dict, List, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.files.layout import write_atomically
from runyard.files.processes import signal_group
from runyard.files.tails import read_regular, tail_of
from runyard.protocol.distributed import Place, Task, tasks_of, wire
from runyard.protocol.meeting import NodeLaunch, Phase
from runyard.protocol.plan import ExitCause
from runyard.runner import mpi_agent, mpi_daemon
from runyard.runner.folder import AttemptFolder
from runyard.runner.meeting import NodeMeeting
from runyard.runner.mpi_ranks import Ranks, Stragglers
from runyard.runner.processes import Script
from runyard.runner.rank import COMMAND, make_life, write_rank
from runyard.runner.team import Command, Launcher, failed

#: What it runs in place of ssh; found by its name, since it may not be given a path with a blank.
_AGENT, _AGENT_TEXT = "runyard-launch", '#!/bin/sh\nexec "$RUNYARD_PYTHON" -I -S "$RUNYARD_AGENT" "$@"\n'
#: Where the ranks of a node put the memory that they share, in Open MPI 4 and 5.
_SHARED_MEMORY = ("OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory")
#: The daemons of Open MPI 4 and 5.
_DAEMONS = ("orted", "prted")
#: How mpirun says which rank failed first.
_BLAMED = re.compile(r"Process name: \[(?:\[\d+,\d+\]|[^\],]*),\s*(\d+)\]|process rank (\d+) with PID")
#: How often launches are looked for, seconds.
LOOK_S = 0.02
#: How long mpirun may take to find out by itself that another node's part has failed, seconds.
PEER_S = 5.0
#: How long a container takes to say which Open MPI it has, seconds.
ASK_S = 60.0
#: Most bytes of one launch.
LAUNCH_BYTES = 65_536
#: How much of mpirun's own output is searched for the rank that failed, bytes.
SAID_BYTES = 65_536


class MpiRun:
    """mpirun on the first node; has the calls of a Script."""

    def __init__(
        self,
        folder: AttemptFolder,
        meeting: Optional[NodeMeeting],
        places: Sequence[Place],
        make: Command,
        launch: Launcher,
    ) -> None:
        """Start it; UserErrorException where there is no Open MPI."""
        self._folder = folder
        self._meeting = meeting
        self._launches = folder.path / "launches"
        self._asked: Dict[str, int] = {}
        self.cause = ExitCause.SCRIPT
        self.blamed: Optional[Task] = None
        self.remark = ""
        self._is_told_to_end = False
        #: When it is ended, or killed, for another node's sake.
        self._ends_at: Optional[float] = None
        variables = _variables(folder, places, make)
        major = find_mpirun(variables) if folder.plan.container is None else ask_mpirun(folder, variables, launch)
        # By its name: with its path, it would set that of this node on the others.
        words = ["mpirun", *mpirun_arguments(folder, places, major), *COMMAND]
        self._variables = variables
        asked = folder.plan.distribution
        self._everyone = [] if asked is None else tasks_of(asked, folder.plan.node_count)
        self._start = launch
        self._script = launch(words, variables, folder.work, folder.log)
        self._stragglers = Stragglers(folder, self._everyone)
        if meeting is not None:
            meeting.tell(phase=Phase.RUNNING)

    def wait(self, timeout_s: float) -> Optional[int]:
        """mpirun's exit code, which is that of the rank that failed first; None after the time."""
        ends_at = time.monotonic() + timeout_s
        while True:
            code = self._script.wait(min(LOOK_S, timeout_s) if self._meeting is not None else timeout_s)
            self._pass_on()
            if code is not None:
                return self._ended(code)
            self._look_around()
            if time.monotonic() >= ends_at:
                return None

    def terminate(self) -> None:
        """Ask mpirun to end every rank."""
        self._is_told_to_end = True
        self._script.terminate()

    def close(self) -> None:
        """Forget it."""
        self._script.close()

    def _look_around(self) -> None:
        """End mpirun where another node could not do its part, and mpirun waits for that node's daemon for ever."""
        now, others = time.monotonic(), () if self._meeting is None else self._meeting.nodes[1:]
        if self._ends_at is None:
            if any(failed(one) for one in others):
                self._ends_at = now + PEER_S
        elif now >= self._ends_at and self.cause != ExitCause.PEER:
            self.cause = ExitCause.PEER
            self._ends_at = now + self._folder.plan.grace_s
            self.terminate()
        elif now >= self._ends_at:
            signal_group(self._script.pid, signal.SIGKILL)
        late = self._stragglers.find(others)
        if late is not None and not self._is_told_to_end:
            self.blamed, self.remark, self._is_told_to_end = late, self._stragglers.remark, True
            signal_group(self._script.pid, signal.SIGKILL)

    def _pass_on(self) -> None:
        """Launches that mpirun has asked for go to their nodes, and the nodes' answers to it."""
        if self._meeting is None:
            return
        new = [
            one for one in sorted(os.listdir(str(self._launches))) if one.endswith(".json") and one not in self._asked
        ]
        for name in new:
            self._asked[name] = len(self._asked) + 1
            found = self._read(name)
            if found is None:
                continue
            node, words = found
            if node == self._folder.node:
                self._start(words, self._variables, self._folder.work, self._folder.log).close()
                self._answer(name, 0)
            else:
                launch = NodeLaunch(self._asked[name], node, tuple(words))
                self._meeting.tell(launches=(*self._meeting.own.launches, launch))
        answers = {number: code for one in self._meeting.nodes for number, code in one.launched}
        for name, number in self._asked.items():
            if number in answers:
                self._answer(name, answers[number])

    def _read(self, name: str) -> Optional[Tuple[int, List[str]]]:
        """(node, words) of a launch; None for what is none: the job may write there too."""
        try:
            asked = json.loads(read_regular(str(self._launches / name), LAUNCH_BYTES))
            return int(asked["node"].rpartition("-")[2]), launched_words([str(one) for one in asked["words"]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserErrorException) as error:
            self._folder.say(f"{name} is no launch: {error}")
            return None

    def _answer(self, name: str, code: int) -> None:
        done = self._launches / (name + ".done")
        if not os.path.lexists(str(done)):
            # Whatever the job may have put there: nothing is followed.
            write_atomically(done, str(code).encode())

    def _ended(self, code: int) -> int:
        if code != 0 and not self._is_told_to_end:
            self._blame()
        return code

    def _blame(self) -> None:
        """Which rank mpirun says failed; if it is another node's, that node tells the run how."""
        found = _BLAMED.search(tail_of(str(self._folder.log), SAID_BYTES, SAID_BYTES))
        if found is None:
            return
        number = int(found.group(1) or found.group(2))
        if number >= len(self._everyone):
            return
        if self._everyone[number].node == self._folder.node:
            self.blamed = self._everyone[number]
        elif self._meeting is not None:
            self.cause = ExitCause.PEER
            self._meeting.tell(blamed=number)


class MpiNode:
    """Another node of MPI: starts what mpirun asks for until the first node's part is over."""

    def __init__(
        self, folder: AttemptFolder, meeting: NodeMeeting, places: Sequence[Place], make: Command, start: Launcher
    ) -> None:
        self._start = start
        self._folder = folder
        self._meeting = meeting
        self._neighbours = [one for one in places if one.address == places[folder.node].address]
        self._variables = _variables(folder, places, make)
        self._scripts: List[Script] = []
        self.cause = ExitCause.SCRIPT
        self.blamed: Optional[Task] = None
        self.remark = ""
        self._ranks = Ranks(folder)
        meeting.tell(phase=Phase.RUNNING, ranks_left=self._ranks.left())

    def wait(self, timeout_s: float) -> Optional[int]:
        """0 once the first node has ended well; None after the time."""
        first = self._meeting.nodes[0]
        if first.end is not None:
            return self._ended()
        for script in self._scripts:
            code = script.wait(0)
            if code:
                self.remark = f"could not run on node {self._folder.node}: mpirun's daemon ended with {code}"
                return 1
        left = self._ranks.left()
        if left != self._meeting.own.ranks_left:
            self._meeting.tell(ranks_left=left)
        done = {number for number, _ in self._meeting.own.launched}
        mine = [one for one in first.launches if one.node == self._folder.node and one.number not in done]
        for launch in mine:
            self._launch(launch)
        if not mine:
            self._meeting.wait(timeout_s)
        return None

    def terminate(self) -> None:
        """Ask whatever was started to end."""
        for script in self._scripts:
            script.terminate()

    def close(self) -> None:
        """Forget what was started."""
        for script in self._scripts:
            script.close()

    def _launch(self, launch: NodeLaunch) -> None:
        code = 0
        try:
            # Looked at here too: a report may be the job's own.
            words, variables = launched_words(launch.words), self._variables
            if words[0] == _DAEMONS[1] and len(self._neighbours) > 1:
                variables = {**variables, mpi_daemon.VARIABLE: f"node-{self._folder.node}"}
                words = [self._folder.python, "-I", "-S", self._folder.program(mpi_daemon.__file__), *words]
            self._scripts.append(self._start(words, variables, self._folder.work, self._folder.log))
        except (OSError, ValueError, UserErrorException) as error:
            self._folder.note(
                f"{' '.join(launch.words)[:80]!r} cannot be started on node {self._folder.node}: {error}."
            )
            code = 1
        self._meeting.tell(launched=(*self._meeting.own.launched, (launch.number, code)))

    def _ended(self) -> int:
        first = self._meeting.nodes[0]
        if first.blamed is not None and first.end is not None:
            self.blamed = next((one for one in self._folder.tasks if one.rank == first.blamed), None)
            if self.blamed is not None:
                return first.end.exit_code or -signal.SIGKILL
        if failed(first):
            self.cause = ExitCause.PEER
        return 0


def find_mpirun(variables: Dict[str, str]) -> int:
    """The major version of the Open MPI on the job's PATH: its environment's own, if it has one, else the host's.

    UserErrorException where there is none, or another MPI's.
    """
    program = shutil.which("mpirun", path=variables.get("PATH"))
    if program is None:
        raise UserErrorException(
            "The run is started by mpirun, and this host has none; install Open MPI (Debian: openmpi-bin), or add the "
            "package 'openmpi' to the environment."
        )
    # By its files: it may be the job's own, which does not run here; and to ask it costs as much as four ranks.
    real = os.path.realpath(program)
    if os.path.basename(real) == "orterun":
        return 4
    if os.path.exists(os.path.join(os.path.dirname(real), "prterun")):
        return 5
    raise UserErrorException(f"{program} is not Open MPI's, which v1's MPI runs need; install Open MPI 4 or newer.")


def ask_mpirun(folder: AttemptFolder, variables: Dict[str, str], launch: Launcher) -> int:
    """As ``find_mpirun``, of an image: mpirun itself says so."""
    said = folder.path / "tmp" / "mpirun.txt"
    script = launch(["mpirun", "--version"], variables, folder.work, said)
    script.wait(ASK_S)
    script.close()
    text = tail_of(str(said))
    found = re.search(r"\(Open MPI\) (\d+)\.", text)
    if found is None:
        last = text.strip().splitlines()[-1:] or ["it says nothing"]
        raise UserErrorException(
            f"The run is started by Open MPI's mpirun, and its image has none ({last[0][:200]}); add the package "
            "'openmpi' to the environment, or take an image that has it."
        )
    return int(found.group(1))


def mpirun_arguments(folder: AttemptFolder, places: Sequence[Place], major: int) -> List[str]:
    """What mpirun is told before the program: how many processes, where, and how it reaches the nodes.

    Ranks fill a node before the next; a node has as many as were asked for, however many cores it has.
    """
    asked = folder.plan.distribution
    each = 1 if asked is None else asked.process_count_per_node
    words = ["-n", str(each * len(places)), "--oversubscribe"] if major < 5 else ["-n", str(each * len(places))]
    words += ["--bind-to", "none"]
    if major >= 5:
        words += ["--map-by", ":OVERSUBSCRIBE"]
    if len(places) == 1:
        return words
    # Open MPI 5 starts the first node's ranks itself, under this host's name; mpi_daemon.py gives the others one each.
    hosts = ["node-0" if major < 5 else "localhost", *(f"node-{number}" for number in range(1, len(places)))]
    words += ["--host", ",".join(f"{host}:{each}" for host in hosts)]
    is_one_host = len({one.address for one in places}) == 1
    if major < 5:
        words += ["--mca", "plm", "rsh", "--mca", "plm_rsh_agent", _AGENT, "--mca", "plm_rsh_no_tree_spawn", "1"]
        if is_one_host:
            words += ["--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo"]
    else:
        words += ["--prtemca", "plm", "ssh", "--prtemca", "plm_ssh_agent", _AGENT]
        words += ["--prtemca", "plm_ssh_no_tree_spawn", "1"]
        if is_one_host:
            # Its daemons find each other by themselves, and would not have this host's own interface named to them.
            words += ["--mca", "btl_tcp_if_include", "lo"]
    return words


def launched_words(words: Sequence[str]) -> List[str]:
    """What mpirun would have a remote shell do, as words, without a shell: its daemon, which stays with the runner.

    What it may set before that are paths, which every node has right already. UserErrorException for anything else.
    """
    found = shlex.split(" ".join(words))
    start = next((at for at, one in enumerate(found) if os.path.basename(one) in _DAEMONS), None)
    if start is None:
        raise UserErrorException(f"mpirun asks to start {' '.join(found)[:200]!r} on a node, which is not its daemon.")
    return [os.path.basename(found[start]), *(one for one in found[start + 1 :] if one != "--daemonize")]


def _share_hosts(places: Sequence[Place]) -> bool:
    """Are several of these nodes on one host?"""
    return len({one.address for one in places}) < len(places)


def _variables(folder: AttemptFolder, places: Sequence[Place], make: Command) -> Dict[str, str]:
    """What every process of this node inherits; writes down what each rank is."""
    asked = folder.plan.distribution
    assert asked is not None
    everyone = tasks_of(asked, folder.plan.node_count)
    ranks, binaries, launches = folder.path / "ranks", folder.path / "bin", folder.path / "launches"
    for one in (ranks, binaries, launches):
        one.mkdir(exist_ok=True)
    # Ranks of one number on two nodes of one host would take the same file below /dev/shm for their memory. What this
    # node's mpirun or daemon has of the kind does not count: mpirun gives every rank its own.
    own = {name: str(folder.path / "tmp") for name in _SHARED_MEMORY if _share_hosts(places)}
    for task in folder.tasks:
        wired = {**own, **wire(asked, everyone, places, task), "RUNYARD_RANK": str(task.rank)}
        write_rank(ranks, task.rank, folder.process_log(task), folder.work, wired, make(wired)[0])
        make_life(launches, task.rank)
    # Daemons look for it too, although only the first node's mpirun calls it.
    (binaries / _AGENT).write_text(_AGENT_TEXT)
    (binaries / _AGENT).chmod(0o755)
    variables = make({})[1]
    return {
        **variables,
        "PATH": os.pathsep.join([str(binaries), variables.get("PATH", os.defpath)]),
        "RUNYARD_AGENT": folder.program(mpi_agent.__file__),
        "RUNYARD_LAUNCHES": str(launches),
        "RUNYARD_RANKS": str(ranks),
        "RUNYARD_PYTHON": folder.python,
        # A server in a container often is root, and a run starts as its server.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
