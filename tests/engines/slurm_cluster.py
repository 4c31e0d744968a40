"""A Slurm cluster of its own on this machine: a controller, nodes, and a cloud whose nodes come and go.

Its parts are real: munged, slurmctld, and one slurmd for each node. It needs root and Debian's packages, no systemd and
no cgroups. Several clusters live beside each other, and beside one that is installed: each has a key, sockets, ports
and folders of its own.

Each daemon is started by a keeper, a process that adopts whatever the daemon leaves behind (a job's steps outlive their
slurmd, and leave its session). The keeper ends all of it when it is told to, or when the tests are gone. This file is
also the keeper's program, so it imports little.
"""

import ctypes
import itertools
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Programs that have to be there; tests/system-packages.sh installs them.
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")

#: What a daemon gets for its search path; a user's often lacks the folders where daemons lie.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Longest wait for the cluster or for one of its nodes, seconds.
LIMIT_S = 60.0
#: How long a job in the partition ``preemptable`` may run on once its steps got a TERM, seconds. slurmctld looks at the
#: clocks of jobs twice a minute, so the KILL comes up to half a minute later.
GRACE_S = 3
#: How long a node of the cloud stays without a job, seconds. It is up a second after a job has asked for it, and then
#: ``srun`` goes on at once; a batch job stays CONFIGURING until slurmctld looks again, for up to half a minute.
IDLE_S = 5

#: Where ports are looked for: below those that the kernel gives to outgoing connections, which would take the port of a
#: slurmd that has been killed before it is started again.
PORTS = range(20_000, 32_000)

#: States that a job does not leave.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)

_PR_SET_CHILD_SUBREAPER = 36

_CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={short}/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={short}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
# No cgroups, no accounting, no network but this machine's.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
# A node tells of the processors that it is given here, not of this machine's.
SlurmdParameters=config_overrides
# Whole nodes: cons_tres with EXCLUSIVE below.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
# Messages go straight to each node, so a dead one holds no other up.
TreeWidth=65533
MessageTimeout=5
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
InactiveLimit=0
MinJobAge=300
ReturnToService=2
"""

_CLOUD = """\
SuspendProgram={folder}/suspend
ResumeProgram={folder}/resume
SuspendTime={idle}
SuspendTimeout=2
ResumeTimeout=30
SuspendRate=0
ResumeRate=0
SuspendExcParts=steady
SlurmctldParameters=power_save_interval=1
# Else sinfo tells of those that are on only.
PrivateData=cloud
"""


class SlurmCluster:
    """A cluster in ``folder``; made by ``slurm_cluster``."""

    def __init__(self, folder: Path, steady: int, cloud: int) -> None:
        self.folder = folder
        self.steady = [f"n{number}" for number in range(1, steady + 1)]
        self.cloud = [f"c{number}" for number in range(1, cloud + 1)]
        self.nodes = self.steady + self.cloud
        #: The configuration, which a client of Slurm finds by the variable SLURM_CONF.
        self.conf = folder / "slurm.conf"
        #: The variables by which a client of Slurm finds this cluster.
        self.settings = {"SLURM_CONF": str(self.conf)}
        #: Where the sockets lie: a socket's path has at most 108 characters, and pytest's folders are long.
        self.sockets = Path(tempfile.mkdtemp(prefix="runyard-slurm-", dir="/tmp"))
        self.sockets.chmod(0o755)
        self._ports = _free_ports(1 + len(self.nodes))
        self._kept: dict[str, list[_Kept]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._power = folder / "power"
        self._power_desk: threading.Thread | None = None

    def start(self) -> None:
        """Start all but the cloud's nodes, and wait until jobs can run."""
        self._write_configuration()
        self._start("munged", *self._munged())
        self._wait(lambda: (self.sockets / "munge").exists(), "munged gives no answer", "munged")
        if self.cloud:
            self._open_power_desk()
        self.start_controller()
        for node in self.steady:
            self.start_slurmd(node)
        self.wait_for_nodes("idle", self.steady)

    def start_controller(self) -> None:
        """Start slurmctld, with the state of the one before it, and wait until it answers."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._wait(lambda: _answers(self._ports[0]), "slurmctld gives no answer", "slurmctld")

    def kill_controller(self) -> None:
        """Kill slurmctld, which has no time to save; what it knows is on disk up to five seconds later.

        ``wait_until_saved`` makes sure of a job.
        """
        self._end("slurmctld")

    def start_slurmd(self, node: str, *options: str) -> None:
        """Start a node's daemon; ``wait_for_nodes`` tells when the controller has heard of it."""
        self._start(node, "slurmd", "-D", "-f", str(self.conf), "-N", node, *options)

    def kill_slurmd(self, node: str) -> None:
        """Kill a node's daemon; the steps of its jobs run on."""
        with self._lock:
            kept = self._kept.get(node, [])
        for keeper in kept:
            keeper.kill_daemon()

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and every process of its jobs at once, as a loss of power does."""
        self._end(node)

    def run(self, *command: str) -> str:
        """What a client of Slurm prints; it must succeed."""
        done = subprocess.run(
            command, env=os.environ | self.settings, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Each node's state as sinfo has it: ``idle~`` is one of the cloud's that is off, ``idle*`` does not answer."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines()
        return dict(line.split()[:2] for line in lines)

    def wait_for_nodes(self, state: str, nodes: Iterable[str]) -> None:
        """Wait until all these nodes have that state."""
        wanted = set(nodes)

        def reached() -> bool:
            states = self.states()
            return all(states.get(node) == state for node in wanted)

        self._wait(reached, f"{sorted(wanted)} are not all {state}")

    def job_state(self, job: str) -> str:
        """A job's state as squeue has it, such as RUNNING."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def wait_for_job(self, job: str, state: str) -> None:
        """Wait until the job has that state. Slurm says RUNNING a moment before the job's script is started."""

        def reached() -> bool:
            now = self.job_state(job)
            if now != state and now in ENDED:
                raise RuntimeError(f"Job {job} ended as {now}, not {state}. The cluster's logs:\n{self.logs()}")
            return now == state

        self._wait(reached, f"job {job} is not {state}")

    def wait_until_saved(self, job: str) -> None:
        """Wait until the controller's file of jobs has this job as it is now: it is written some seconds later."""
        mark = f"saved-{random.getrandbits(64):x}"
        self.run("scontrol", "update", f"JobId={job}", f"AdminComment={mark}")
        saved = self.folder / "state" / "job_state"
        self._wait(lambda: saved.exists() and mark.encode() in saved.read_bytes(), f"job {job} is not saved")

    def logs(self) -> str:
        """The end of each log, for a message."""
        # What a daemon prints is in its log too, with times, where it came to have one.
        printed = sorted(self.folder.glob("*.out"))
        logs = (log if (log := out.with_suffix(".log")).exists() else out for out in printed)
        return "\n".join(f"--- {log.name}\n{_end_of(log)}" for log in logs)

    def close(self) -> None:
        """End all that was started, jobs too, and remove the folder of sockets; the logs stay."""
        with self._lock:
            self._closed = True
            names = list(self._kept)
        if self._power_desk:
            # For both directions: opening does not wait, even where that thread has failed.
            with os.fdopen(os.open(self._power, os.O_RDWR), "wb", buffering=0) as desk:
                desk.write(b"close\n")
            self._power_desk.join()
        # The controller first: it would start or stop nodes on seeing others go.
        for name in sorted(names, key=lambda name: name != "slurmctld"):
            self._end(name)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _write_configuration(self) -> None:
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        places = {
            "folder": self.folder,
            "short": self.sockets,
            "host": socket.gethostname().split(".")[0],
            "name": self.sockets.name.replace("_", "-").lower(),
            "port": self._ports[0],
            "idle": IDLE_S,
        }
        text = _CONFIGURATION + (_CLOUD if self.cloud else "")
        self.conf.write_text(text.format(**places) + "\n".join(self._nodes_and_partitions()) + "\n")
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))

    def _nodes_and_partitions(self) -> Iterator[str]:
        host = socket.gethostname().split(".")[0]
        for node, port in zip(self.nodes, self._ports[1:], strict=True):
            state = "CLOUD" if node in self.cloud else "UNKNOWN"
            place = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            yield f"NodeName={node} {place} CPUs=2 RealMemory=2000 State={state}"
            (self.sockets / node).mkdir()
        steady = f"Nodes={','.join(self.steady)} OverSubscribe=EXCLUSIVE"
        yield f"PartitionName=steady {steady} Default=YES PriorityTier=1 PreemptMode=OFF"
        yield f"PartitionName=preemptable {steady} PriorityTier=1 PreemptMode=CANCEL GraceTime={GRACE_S}"
        yield f"PartitionName=urgent {steady} PriorityTier=2 PreemptMode=OFF"
        if self.cloud:
            yield f"PartitionName=cloud Nodes={','.join(self.cloud)} OverSubscribe=EXCLUSIVE PreemptMode=OFF"

    def _munged(self) -> list[str]:
        places = {
            "socket": self.sockets / "munge",
            "key-file": self.folder / "munge.key",
            "pid-file": self.folder / "munged.pid",
            "seed-file": self.folder / "munged.seed",
        }
        # With --force it only warns of a folder that others may write.
        return ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items())]

    def _open_power_desk(self) -> None:
        """Let the controller's programs ask a thread of ours, so that a cloud's node is started as every other."""
        os.mkfifo(self._power)
        for order in ("resume", "suspend"):
            program = self.folder / order
            # The controller gives them an empty search path; echo is the shell's own.
            program.write_text(f"#!/bin/sh\necho {order} \"$1\" > '{self._power}'\n")
            program.chmod(0o755)
        # For both directions, so that opening does not wait and the end never comes.
        desk = os.open(self._power, os.O_RDWR)
        self._power_desk = threading.Thread(target=self._serve_power, args=(desk,), name="slurm-power", daemon=True)
        self._power_desk.start()

    def _serve_power(self, desk: int) -> None:
        with os.fdopen(desk) as orders:
            for line in orders:
                order, _, names = line.strip().partition(" ")
                ordered_at = int(time.time())
                if order == "close":
                    return
                for node in self.run("scontrol", "show", "hostnames", names).split():
                    # What is left of an earlier slurmd keeps the node's port.
                    self._end(node)
                    if order == "resume":
                        # Without -b the controller takes it for the slurmd of before, and the node for not resumed;
                        # as it does where the node seems to be up since before it was asked for, in whole seconds.
                        # With -b it says that it is up for a second.
                        self._wait(lambda since=ordered_at: int(time.time()) > since, "the clock stands still")
                        self.start_slurmd(node, "-b")

    def _start(self, name: str, *command: str) -> None:
        with self._lock:
            # The cloud's orders come by a thread of their own, at any time.
            if not self._closed:
                log = self.folder / f"{name}.out"
                self._kept.setdefault(name, []).append(_Kept(command, log, self.settings))

    def _end(self, name: str) -> None:
        with self._lock:
            kept = self._kept.pop(name, [])
        for keeper in kept:
            keeper.end()

    def _wait(self, reached: Callable[[], bool], lack: str, daemon: str = "") -> None:
        """Wait for it; not longer than ``daemon`` lives, where that is named."""
        began = time.monotonic()
        while not reached():
            waited = time.monotonic() - began
            fallen = bool(daemon) and all(keeper.gone for keeper in self._kept[daemon])
            if fallen or waited > LIMIT_S:
                raise RuntimeError(f"After {waited:.1f} s {lack}. The cluster's logs:\n{self.logs()}")
            time.sleep(0.05)


@contextmanager
def slurm_cluster(folder: Path, steady: int = 2, cloud: int = 2) -> Iterator[SlurmCluster]:
    """A cluster of ``steady`` nodes, and ``cloud`` more that come when a job waits for one; gone after the block."""
    cluster = SlurmCluster(folder, steady, cloud)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


class _Kept:
    """A daemon with its keeper, which hears and answers by one socket."""

    def __init__(self, command: Iterable[str], log: Path, settings: dict[str, str]) -> None:
        self._line, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, *command],
                env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8", **settings},
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                # Ctrl-C ends the tests, which then end the cluster.
                start_new_session=True,
            )

    @property
    def gone(self) -> bool:
        """Whether the daemon has ended, and all that it has started."""
        return self._keeper.poll() is not None

    def kill_daemon(self) -> None:
        """Kill the daemon alone, and wait until it is gone."""
        try:
            self._line.sendall(b"k")
            self._line.recv(1)
        except BrokenPipeError:
            pass

    def end(self) -> None:
        """Kill the daemon and all that it has started, and wait until it is gone."""
        # Closing says nothing while a process that a test has forked holds the socket too.
        self._line.shutdown(socket.SHUT_RDWR)
        self._keeper.wait()
        self._line.close()


def _keep(command: list[str]) -> None:
    """Run a daemon until nothing is left of it, or until the line ends: then end what is left."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    line = socket.socket(fileno=os.dup(0))
    # Before the first child, or its end could go unheard.
    bell, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Not subprocess, which does not expect that its child is waited for together with those adopted.
    no_input = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    daemon = os.posix_spawnp(command[0], command, os.environ, file_actions=no_input, setsid=True)
    try:
        _attend(daemon, line, bell)
        while True:
            for pid in _descendants(os.getpid()):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _attend(daemon: int, line: socket.socket, bell: int) -> None:
    """Wait for whatever ends, and kill the daemon for each byte that comes; ChildProcessError: nothing is left."""
    alive = {daemon}
    while True:
        ready = select.select([line.fileno(), bell], [], [])[0]
        if bell in ready:
            os.read(bell, 4096)
            alive -= set(_ended())
        if line.fileno() in ready:
            if not line.recv(1):
                return
            if alive:
                os.kill(daemon, signal.SIGKILL)
                os.waitpid(daemon, 0)
                alive.clear()
            line.sendall(b"k")


def _ended() -> Iterator[int]:
    """The children that have ended since the last time; each is waited for."""
    while pid := os.waitpid(-1, os.WNOHANG)[0]:
        yield pid


def _descendants(root: int) -> list[int]:
    """Every process below this one, adopted ones too."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        try:
            # After the name, which may hold anything, come the state and the parent.
            parents[int(entry)] = int(
                Path("/proc", entry, "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
            )
        except (ValueError, OSError):
            continue
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {root})


def _free_ports(count: int) -> list[int]:
    """Ports where nobody listens."""
    free = (port for port in random.sample(PORTS, len(PORTS)) if _can_listen(port))
    return list(itertools.islice(free, count))


def _can_listen(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def _answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
    except OSError:
        return False
    return True


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])


if __name__ == "__main__":
    _keep(sys.argv[1:])
