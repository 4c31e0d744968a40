"""Runs on a Ray cluster: a placement group an attempt, a runner a node; Ray's autoscaler brings and takes the nodes.

This server's own queue orders the runs; only admitted ones reach Ray, which places them and never holds the truth:
a head that dies takes no run with it. A process of its own speaks with Ray (compute/ray_bridge.py), so that the server
neither imports Ray nor waits for it.
"""

import hashlib
import json
import math
import re
import signal
import time
from dataclasses import replace
from typing import Dict, Iterable, List, Mapping, Optional, Sequence

from runyard.compute.ray_head import CPUS, NAME, OWN, RayHead
from runyard.compute.ray_line import Place, RayLine
from runyard.compute.remote import TOLD_S, Reach, node_program, read_fence_s
from runyard.compute.watch import Watch
from runyard.errors import ComputeTargetException, ServiceException
from runyard.protocol.compute import ClusterSpec, EngineKind, find_vm_size
from runyard.protocol.plan import LaunchPlan, Observation
from runyard.protocol.wire import dumps

#: No node has as much of anything, bytes of memory apart.
UNITS_MAX = 1e6

#: Only these: Ray would take "auto" for a cluster that it finds on this host.
_ADDRESS = re.compile(r"^(ray://)?[A-Za-z0-9._\[\]:-]+:\d{1,5}$")
#: What a cluster can be attached with.
SETTINGS = ("address", "vm_size", "cpus", "gpus", "memory_gib", "resources", "token_file", "node_folder")


class RayCompute:
    """One cluster."""

    #: A head that was started again knows nothing of what its nodes carry out.
    fence_s = read_fence_s()

    def __init__(self, settings: Mapping[str, str], reach: Reach) -> None:
        self._settings = dict(settings)
        self._reach = reach
        self._head = find_head(settings, reach)
        # Two targets of one cluster are two of these: neither may take the other's groups for its own leftovers.
        told = hashlib.sha256(json.dumps(sorted(settings.items())).encode()).hexdigest()[:8]
        self._bridge = RayLine(self._find, f"{reach.mark}-{told}")
        self._watch = Watch("ray", self._look)
        #: When each key was told to stop, and its runner killed, for the last time.
        self._stopped: Dict[str, float] = {}
        self._killed: Dict[str, float] = {}

    def prepare(self) -> None:
        """Join the cluster, whose head is started first where that is the server's own."""
        self._bridge.ask("look", keys=[])

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        program = node_program(
            self._reach, plan, secret, "RUNYARD_NODE_NUMBER", self._node_folder(), self._head is not None
        )
        asked = {
            "key": key,
            "program": program,
            "nodes": plan.node_count,
            "log": f"/tmp/runyard-ray-{key.rpartition('/')[0]}.log",
            "bundle": bundle_of(self._settings),
            # This host is all the nodes of a head of the server's own.
            "strategy": "STRICT_SPREAD" if self._head is None else "PACK",
        }
        self._watch.begin(key, lambda: self._bridge.ask("start", **asked))

    def recover(self, key: str) -> bool:
        """What may be left of it is ended, and its nodes are given back."""
        self._watch.do(f"remove {key}", lambda: self._bridge.ask("remove", key=key))
        return False

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        asked = list(keys)
        for told in (self._stopped, self._killed):
            for key in told.keys() - set(asked):
                told.pop(key, None)
        return self._watch.observe(asked)

    def stop(self, key: str) -> None:
        self._watch.forget(key)
        if self._is_due(self._stopped, key):
            self._watch.do(f"stop {key}", lambda: self._bridge.ask("signal", key=key, number=int(signal.SIGTERM)))

    def kill(self, key: str) -> None:
        """First its runner, which its supervisor replaces to complete the record; where that changes nothing, all."""
        was_killed = key in self._killed
        if not self._is_due(self._killed, key):
            return
        if was_killed:
            self._watch.do(f"kill {key}", lambda: self._bridge.ask("end", key=key))
        else:
            self._watch.do(f"kill {key}", lambda: self._bridge.ask("signal", key=key, number=int(signal.SIGUSR1)))

    def tidy(self, keys: Iterable[str], before: float) -> None:
        """The nodes do that themselves; groups that nobody asks for any more go with the next look."""

    def close(self) -> None:
        self._watch.close()
        self._bridge.close()

    def _find(self) -> Place:
        if self._head is None:
            return Place(self._settings.get("address", ""), self._settings.get("token_file", ""))
        address, serial = self._head.begin(self._settings)
        return Place(address, str(self._head.token_file), serial)

    def _node_folder(self) -> str:
        asked = self._settings.get("node_folder", "")
        return asked or ("" if self._head is None else str(self._reach.heads_folder / "node"))

    def _is_due(self, told: Dict[str, float], key: str) -> bool:
        """Control asks each second: an engine that is away would hear all of it when it is back."""
        now = time.monotonic()
        if now - told.get(key, -TOLD_S) < TOLD_S:
            return False
        told[key] = now
        return True

    def _look(self, keys: Sequence[str]) -> Dict[str, Observation]:
        found: Dict[str, List[str]] = self._bridge.ask("look", keys=list(keys))
        return {key: Observation(key, state, detail) for key, (state, detail) in found.items()}


def find_head(settings: Mapping[str, str], reach: Reach) -> Optional[RayHead]:
    """The head that the server starts for a target; None: its cluster is somebody else's."""
    return RayHead(reach.heads_folder / settings[NAME]) if settings.get("address") == OWN else None


def settled(spec: ClusterSpec, workspace: str, cpus: int) -> ClusterSpec:
    """A target as it is kept: one whose head is the server's own gets a name for that, and what it offers.

    As many runs fit as the target has nodes, whatever this host's ``cpus`` are: they share them.
    """
    engine = spec.engine
    if engine is None or engine.kind != EngineKind.RAY or engine.settings.get("address") != OWN:
        return spec
    name = hashlib.sha256(f"{workspace}\n{dumps(spec)}".encode()).hexdigest()[:12]
    offered = max(cpus, math.ceil(bundle_of(engine.settings)["CPU"] * spec.max_nodes))
    return replace(spec, engine=replace(engine, settings={**engine.settings, NAME: name, CPUS: str(offered)}))


def bundle_of(settings: Mapping[str, str]) -> Dict[str, float]:
    """What a node of a run needs, in Ray's own names; ValueError where no node can have that."""
    size = find_vm_size(settings["vm_size"]) if settings.get("vm_size") else None
    found = {"CPU": float(settings.get("cpus") or (1 if size is None else size.cpus))}
    gpus = float(settings.get("gpus") or (0 if size is None else size.gpus))
    if gpus:
        found["GPU"] = gpus
    if settings.get("memory_gib"):
        found["memory"] = float(settings["memory_gib"]) * (1 << 30)
    for name, number in json.loads(settings.get("resources") or "{}").items():
        found[str(name)] = float(number)
    most = {"memory": UNITS_MAX * (1 << 30)}
    # NaN is within no bounds.
    if not all(0 <= number <= most.get(name, UNITS_MAX) for name, number in found.items()) or not any(found.values()):
        raise ValueError("no node has that")
    return found


def check_settings(settings: Mapping[str, str]) -> None:
    """ComputeTargetException for a setting that is none, and where no cluster answers."""
    for name in settings:
        if name not in SETTINGS:
            raise ComputeTargetException(
                "A Ray target has no setting {!r}; there are: {}.".format(name[:80], ", ".join(SETTINGS))
            )
    address = settings.get("address", "")
    if address != OWN and not _ADDRESS.match(address):
        raise ComputeTargetException(
            "A Ray target needs the cluster's address, as 'host:6379' or 'ray://host:10001', or 'local' for one that "
            "the server starts."
        )
    if settings.get("vm_size") and find_vm_size(settings["vm_size"]) is None:
        raise ComputeTargetException(f"The VM size {settings['vm_size'][:80]!r} is not known.")
    try:
        bundle_of(settings)
    except (ValueError, AttributeError, TypeError, OverflowError):
        raise ComputeTargetException(
            'cpus, gpus and memory_gib are numbers that a node can have, and resources is JSON of such, as {"big": 1}.'
        ) from None
    if address != OWN:
        _check_answer(Place(address, settings.get("token_file", "")))


def _check_answer(place: Place) -> None:
    line = RayLine(lambda: place, "check")
    try:
        line.ask("look", keys=[])
    except ServiceException as error:
        raise ComputeTargetException(str(error)) from None
    finally:
        line.close()
