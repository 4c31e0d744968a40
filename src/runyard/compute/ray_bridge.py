"""The process that speaks with a Ray cluster for the server, in an interpreter that has Ray: a line in, a line out.

Each line is JSON. It holds nothing that must not be lost: what it starts stands in Ray under names that carry the
attempt's key, and is found there by the next such process. An attempt is a placement group, with an actor on each of
its nodes that has started the node's program and can tell of it; the program itself lives on without actor, raylet or
head. The interpreter may have no Runyard, so this text imports none.
"""

import json
import os
import sys
from typing import Any, Dict, List, Optional

import ray
from ray.util.placement_group import get_placement_group, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

#: Names of one namespace are seen by every server; a mark tells theirs apart.
NAMESPACE = "runyard"
#: How long actors may take to tell of their programs, seconds.
ANSWER_S = 5.0

#: Started by the actor, and gone at once: what it leaves behind is no child of a worker, which Ray would end with it.
_DETACH = """
import os, subprocess, sys
program = subprocess.Popen(
    [sys.executable, "-"], stdin=sys.stdin, stdout=open(sys.argv[1], "ab"), stderr=subprocess.STDOUT,
    start_new_session=True, cwd="/")
print(program.pid)
"""


@ray.remote(max_restarts=0, max_task_retries=0)  # type: ignore[untyped-decorator,unused-ignore]
class NodeActor:
    """One node's part of an attempt."""

    def __init__(self, program: str, number: int, log: str) -> None:
        import subprocess

        dropped = ("RAY_", "PYTHONPATH", "VIRTUAL_ENV")
        variables = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
        variables["RUNYARD_NODE_NUMBER"] = str(number)
        command = [sys.executable, "-c", _DETACH, log]
        # The GPUs of its bundle stand in a variable of the worker, which the program hands down.
        done = subprocess.run(command, input=program.encode(), stdout=subprocess.PIPE, env=variables, check=True)
        self._pid = int(done.stdout)
        self._started = self._start_time()

    def is_alive(self) -> bool:
        """Does the program live?"""
        return self._started is not None and self._start_time() == self._started

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.is_alive():
            os.kill(self._pid, number)

    def _start_time(self) -> Optional[str]:
        try:
            with open(f"/proc/{self._pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]


class Bridge:
    """What can be asked."""

    def __init__(self, mark: str) -> None:
        self._prefix = f"runyard:{mark}:"

    def start(self, key: str, program: str, nodes: int, bundle: Dict[str, float], log: str) -> None:
        """Ask Ray for the nodes of an attempt, each with its actor; what of them is there already is left alone."""
        name = self._prefix + key
        group = _group(name)
        if group is None:
            group = placement_group([bundle] * nodes, strategy="STRICT_SPREAD", name=name, lifetime="detached")
        for number in range(nodes):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
            actor = NodeActor.options(  # type: ignore[attr-defined]
                name=f"{name}:{number}",
                get_if_exists=True,
                lifetime="detached",
                scheduling_strategy=place,
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
            )
            actor.remote(program, number, log)

    def look(self, keys: List[str]) -> Dict[str, List[str]]:
        """[state, detail] of each key that Ray knows; what is asked for no more is removed."""
        found = {}
        for facts in placement_group_table().values():
            name = facts["name"]
            if not name.startswith(self._prefix) or facts["state"] == "REMOVED":
                continue
            key = name[len(self._prefix) :]
            if key in keys:
                found[key] = _seen(name, facts)
            else:
                _remove(name)
        return found

    def signal(self, key: str, number: int) -> None:
        """Send the attempt's programs a signal; one that waits for its nodes waits no more."""
        name = self._prefix + key
        group = _group(name)
        if group is not None and placement_group_table(group)["state"] == "PENDING":
            _remove(name)
            return
        for actor in _actors_of(name):
            actor.signal.remote(number)

    def remove(self, key: str) -> None:
        """Give the attempt's nodes back."""
        _remove(self._prefix + key)


def _seen(name: str, facts: Dict[str, Any]) -> List[str]:
    count = len(facts["bundles"])
    if facts["state"] == "PENDING":
        bundle = next(iter(facts["bundles"].values()))
        shape = ", ".join(f"{number:g} {what}" for what, number in sorted(bundle.items()))
        return ["waiting", f"Waits in Ray for {count} node{'s' * (count > 1)} with {shape} each."]
    actors = _actors_of(name)
    asked = [actor.is_alive.remote() for actor in actors]
    done, late = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    alive, lost = 0, count - len(actors)
    for one in done:
        try:
            alive += bool(ray.get(one))
        except ray.exceptions.ActorUnavailableError:
            late.append(one)
        except ray.exceptions.RayError:
            lost += 1
    if lost:
        return ["unseen", f"Ray has lost {lost} of its {count} nodes."]
    if late and not done:
        return ["waiting", "Waits for Ray to start its runner."]
    if alive + len(late) < count:
        return ["gone", f"Its supervisor on {count - alive - len(late)} of {count} nodes is gone."]
    return ["alive", ""]


def _group(name: str) -> Any:
    try:
        return get_placement_group(name)
    except ValueError:
        return None


def _actors_of(name: str) -> List[Any]:
    found: List[Any] = []
    while True:
        try:
            found.append(ray.get_actor(f"{name}:{len(found)}", NAMESPACE))
        except ValueError:
            return found


def _remove(name: str) -> None:
    for actor in _actors_of(name):
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
