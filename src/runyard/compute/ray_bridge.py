"""The process that speaks with a Ray cluster for the server, in an interpreter that has Ray: a line in, a line out.

Each line is JSON. It holds nothing that must not be lost: what it starts stands in Ray under names that carry the
attempt's key, and is found there by the next such process. An attempt is a placement group, with an actor on each of
its nodes that has started the node's program and can tell of it; the program itself lives on without actor, raylet or
head. The interpreter may have no Runyard, so this text imports none.
"""

import json
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional, Set, Tuple

import ray
from ray.experimental.internal_kv import _internal_kv_list
from ray.util.placement_group import get_placement_group, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

#: Names of one namespace are seen by every server; a mark tells theirs apart.
NAMESPACE = "runyard"
#: How long actors may take to tell of their programs, seconds: the next start waits as long.
ANSWER_S = 0.3
#: How long an attempt of several nodes may go on without one of them, seconds: the first one ends a little later.
MISSING_S = 30.0
#: How long the processes of an attempt that is over may take to end by themselves, and to be ended, seconds.
LEAVE_S, END_S = 20.0, 5.0
#: Carried by the programs that an attempt has on a node, and none of its script's processes: the attempt's name in Ray.
MARK = "RUNYARD_RAY_ATTEMPT"
#: Most that is told of why Ray has lost a node, characters; what stands in it where no actor could begin, and where its
#: worker has ended: why is not always told.
WHY_MAX, UNKNOWN_CLASS, WORKER_ENDED = 1_000, "load_actor_class", "its worker process has died"
#: Of the program on a node: it lives; it has done its part; it is gone and has not.
ALIVE, ENDED, GONE = "alive", "ended", "gone"
#: Where runner/supervise.py says that its part is done: the number of a descriptor.
DONE = "RUNYARD_DONE"
#: What runner/supervise.py takes for the wish to have its runner replaced.
REPLACE = signal.SIGUSR1

#: Stands before the node's program. Whoever began it goes at once: Ray would end the child of a worker with that.
_DETACH = """
import os
pid = os.fork()
if pid:
    os.write(1, b"%d" % pid)
    os._exit(0)
os.setsid()
os.chdir("/")
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
for number in (1, 2):
    os.dup2(log, number)
os.close(log)
"""


class NodeActor:
    """One node's part of an attempt."""

    def __init__(self, program: str, number: int, log: str, name: str) -> None:
        import subprocess

        dropped = ("RAY_", "PYTHONPATH", "VIRTUAL_ENV")
        variables = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
        # The GPUs of its bundle stand in a variable of the worker, which the program hands down.
        variables.update({"RUNYARD_NODE_NUMBER": str(number), MARK: name})
        # A supervisor that has done its part says so there; nobody else would know from one that was killed.
        self._said, saying = os.pipe()
        os.set_blocking(self._said, False)
        variables[DONE] = str(saying)
        text = _DETACH.format(log=log) + program
        done = subprocess.run(
            [sys.executable, "-", "runyard-supervise"],
            input=text.encode(),
            stdout=subprocess.PIPE,
            env=variables,
            pass_fds=(saying,),
        )
        os.close(saying)
        self._is_done = False
        self._name = name
        self._pid = int(done.stdout)
        self._started = _start_time(self._pid)

    def state(self) -> str:
        """Does anything live that carries the attempt out here? Its runner goes on without its supervisor."""
        if self._has_supervisor() or _with_variable(f"{MARK}={self._name}\0"):
            return ALIVE
        try:
            self._is_done = self._is_done or bool(os.read(self._said, 1))
        except BlockingIOError:
            pass
        return ENDED if self._is_done else GONE

    def signal(self, number: int) -> None:
        """Send the supervisor a signal; where it is gone, all that it has left here."""
        for pid in [self._pid] if self._has_supervisor() else _with_variable(f"{MARK}={self._name}\0"):
            _send(pid, number)

    def end(self) -> None:
        """End all of the attempt on this node: supervisor, runner, and every process below them."""
        gives_up_at = time.monotonic() + END_S
        while time.monotonic() < gives_up_at:
            heads = {self._pid} if self._has_supervisor() else set()
            for pid in heads:
                # As it is, it begins no other runner, and what loses its parent comes to it still.
                _send(pid, signal.SIGSTOP)
            # A script's processes carry the attempt's key, which a folder's path follows.
            key = self._name.split(":", 2)[2]
            marked = _with_variable(f"{MARK}={self._name}\0", f"RUNYARD_KEY={key} ")
            found = (marked | _descendants(heads | marked)) - heads
            for pid in found or heads:
                _send(pid, signal.SIGKILL)
            if not found and not heads:
                return
            time.sleep(0.02)

    def _has_supervisor(self) -> bool:
        return self._started is not None and _start_time(self._pid) == self._started


def _start_time(pid: int) -> Optional[str]:
    """When the process started; None if there is none, or only a zombie."""
    found = _stat(pid)
    return None if not found or found[0] == "Z" else found[19]


def _stat(pid: int) -> List[str]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _pids() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _with_variable(*beginnings: str) -> Set[int]:
    """The living processes with a variable that begins so, as far as we may look."""
    wanted, found = [f"\0{one}".encode() for one in beginnings], set()
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = b"\0" + file.read()
        except OSError:
            continue
        if any(one in variables for one in wanted):
            found.add(pid)
    return found


def _descendants(heads: Set[int]) -> Set[int]:
    """Every living process below those."""
    stats = {pid: _stat(pid) for pid in _pids()}
    parents = {pid: int(found[1]) for pid, found in stats.items() if found and found[0] != "Z"}
    below: Set[int] = set()
    level = set(heads)
    while level:
        level = {pid for pid, parent in parents.items() if parent in level} - below
        below |= level
    return below


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


class Told:
    """What the actors of an attempt say of its programs: how many live, have not answered, and have done their part."""

    def __init__(self) -> None:
        self.alive = self.late = self.ended = 0
        #: Why Ray has lost a node, by its number; and those that have answered.
        self.lost: Dict[int, str] = {}
        self.heard: Set[int] = set()


class Bridge:
    """What can be asked."""

    def __init__(self, mark: str) -> None:
        self._prefix = f"runyard:{mark}:"
        #: Since when an attempt goes on without one of its nodes, or is to be over, by its name.
        self._missing: Dict[str, float] = {}
        self._leaving: Dict[str, float] = {}
        #: Actors that this process has begun, by the attempt's name and the node's number: Ray finds none by name that
        #: has died, and tells these why; and what each was asked for.
        self._begun: Dict[str, Dict[int, Any]] = {}
        self._asked: Dict[str, Tuple[str, Dict[str, float], str]] = {}
        #: Which of its nodes have ever answered.
        self._heard: Dict[str, Set[int]] = {}
        self._actor_class = _remote_class()

    def start(self, key: str, program: str, nodes: int, bundle: Dict[str, float], log: str, strategy: str) -> None:
        """Ask Ray for the nodes of an attempt, each with its actor; what of them is there already is left alone."""
        name = self._prefix + key
        group = _group(name)
        if group is None:
            group = placement_group([bundle] * nodes, strategy=strategy, name=name, lifetime="detached")
        self._asked[name] = program, bundle, log
        for number in range(nodes):
            self._begin(name, number, group)

    def look(self, keys: List[str]) -> Dict[str, List[str]]:
        """[state, detail] of each key that Ray knows; what is asked for no more is removed once it has ended."""
        found = {}
        groups = {
            facts["name"]: facts
            for facts in placement_group_table().values()
            if facts["name"].startswith(self._prefix) and facts["state"] != "REMOVED"
        }
        for known in (self._missing, self._leaving):
            for name in known.keys() - groups.keys():
                del known[name]
        for begun in (self._begun, self._asked, self._heard):
            for name in begun.keys() - groups.keys():
                del begun[name]
        for name, facts in groups.items():
            key = name[len(self._prefix) :]
            if key in keys:
                found[key] = self._seen(name, facts)
            else:
                self._let_go(name, facts)
        return found

    def signal(self, key: str, number: int) -> None:
        """Send the attempt's programs a signal; one that waits for its nodes waits no more."""
        name = self._prefix + key
        group = _group(name)
        if group is None:
            return
        facts = placement_group_table(group)
        if facts["state"] == "PENDING":
            _remove(name, facts)
            return
        for actor in _actors_of(name, facts).values():
            actor.signal.remote(number)

    def end(self, key: str) -> None:
        """End all of the attempt, wherever a node of it answers."""
        name = self._prefix + key
        group = _group(name)
        if group is not None:
            _end(name, placement_group_table(group))

    def remove(self, key: str) -> None:
        """End what is left of the attempt, and give its nodes back."""
        name = self._prefix + key
        group = _group(name)
        if group is not None:
            facts = placement_group_table(group)
            _end(name, facts)
            _remove(name, facts)

    def _seen(self, name: str, facts: Dict[str, Any]) -> List[str]:
        count = len(facts["bundles"])
        if facts["state"] == "PENDING":
            return ["waiting", _wait_of(facts)]
        told = _ask_all(name, facts, self._begun.get(name, {}))
        heard = self._heard.setdefault(name, set())
        heard |= told.heard
        unknown = [number for number, why in told.lost.items() if number not in heard and _had_no_class(why)]
        if unknown and name in self._asked:
            # Nothing has begun there: Ray's control store has forgotten the class while this process had its job.
            self._actor_class = _remote_class()
            for number in unknown:
                self._begin(name, number, _group(name))
        elif told.lost:
            return ["unseen", f"Ray has lost {len(told.lost)} of its {count} nodes: {min(told.lost.items())[1]}"]
        if told.late + len(told.lost) == count:
            return ["waiting", "Waits for Ray to start its runner."]
        missing = count - told.alive - told.late
        # One node stores after the other: those that have done their part wait for nobody.
        if missing == told.ended and told.alive + told.late:
            self._missing.pop(name, None)
        elif missing == count or time.monotonic() - self._missing.setdefault(name, time.monotonic()) > MISSING_S:
            return ["gone", f"Its supervisor on {missing} of {count} nodes is gone."]
        return ["alive", ""]

    def _begin(self, name: str, number: int, group: Any) -> None:
        """Have Ray start the actor of one node, unless it has it already."""
        program, bundle, log = self._asked[name]
        actor = self._actor_class.options(
            name=f"{name}:{number}",
            get_if_exists=True,
            lifetime="detached",
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
        )
        self._begun.setdefault(name, {})[number] = actor.remote(program, number, log, name)

    def _let_go(self, name: str, facts: Dict[str, Any]) -> None:
        """Remove what nobody asks for; its processes may end by themselves first, as they do once a run has ended."""
        if facts["state"] != "PENDING":
            told = _ask_all(name, facts, {})
            if told.alive + told.late:
                if time.monotonic() - self._leaving.setdefault(name, time.monotonic()) < LEAVE_S:
                    return
                _end(name, facts)
        _remove(name, facts)


def _wait_of(facts: Dict[str, Any]) -> str:
    """What an attempt waits for: nodes that are not there, which an autoscaler may bring, or busy ones."""
    bundle, count = next(iter(facts["bundles"].values())), len(facts["bundles"])
    shape = ", ".join(f"{_amount(what, number)} {what}" for what, number in sorted(bundle.items()))
    nodes = f"{count} node{'s' * (count > 1)} with {shape} each"
    fitting = sum(
        all(node["Resources"].get(what, 0) >= number for what, number in bundle.items())
        for node in ray.nodes()
        if node["Alive"]
    )
    if fitting < count:
        there = f"; {fitting} {'is' if fitting == 1 else 'are'} there" if fitting else ""
        return f"Waits for {nodes} to come up in Ray{there}."
    return f"Waits in Ray for {nodes} to be free."


def _amount(what: str, number: float) -> str:
    return f"{number / (1 << 30):g} GiB" if what == "memory" else f"{number:g}"


def _remote_class() -> Any:
    """The actors' class, which Ray's control store is given anew before the next one begins."""
    return ray.remote(max_restarts=0, max_task_retries=0)(NodeActor)


def _had_no_class(why: str) -> bool:
    """Has an actor that never answered ended for want of its class? Then nothing of its program has begun."""
    if UNKNOWN_CLASS in why:
        return True
    mine = b"ActorClass:" + ray.get_runtime_context().get_job_id().encode()
    return WORKER_ENDED in why and not _internal_kv_list(mine, namespace=b"fun")


def _ask_all(name: str, facts: Dict[str, Any], begun: Dict[int, Any]) -> Told:
    actors = {**begun, **_actors_of(name, facts)}
    asked = {actor.state.remote(): number for number, actor in actors.items()}
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    told = Told()
    told.late = len(late)
    told.lost = {number: "it knows none there." for number in range(len(facts["bundles"])) if number not in actors}
    for one in done:
        try:
            state = ray.get(one)
            told.heard.add(asked[one])
            told.alive, told.ended = told.alive + (state == ALIVE), told.ended + (state == ENDED)
        except ray.exceptions.ActorUnavailableError:
            told.late += 1
        except ray.exceptions.RayError as error:
            told.lost[asked[one]] = " ".join(str(error).split())[:WHY_MAX]
    return told


def _end(name: str, facts: Dict[str, Any]) -> None:
    asked = [actor.end.remote() for actor in _actors_of(name, facts).values()]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=END_S + ANSWER_S)


def _group(name: str) -> Any:
    try:
        return get_placement_group(name)
    except ValueError:
        return None


def _actors_of(name: str, facts: Dict[str, Any]) -> Dict[int, Any]:
    """The actors of a group that Ray knows, by their nodes: one that was lost is no reason to pass those after it."""
    found: Dict[int, Any] = {}
    for number in range(len(facts["bundles"])):
        try:
            found[number] = ray.get_actor(f"{name}:{number}", NAMESPACE)
        except ValueError:
            continue
    return found


def _remove(name: str, facts: Dict[str, Any]) -> None:
    for actor in _actors_of(name, facts).values():
        ray.kill(actor)
    group = _group(name)
    if group is not None:
        remove_placement_group(group)


def main(address: str, mark: str) -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever Ray prints is no answer.
    os.dup2(2, 1)
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    bridge = Bridge(mark)
    answers.write(json.dumps({"ok": True, "value": ray.__version__}) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            value = getattr(bridge, asked.pop("do"))(**asked)
            answers.write(json.dumps({"ok": True, "value": value}) + "\n")
        except Exception as error:  # noqa: BLE001 - the server is told, and decides
            answers.write(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
