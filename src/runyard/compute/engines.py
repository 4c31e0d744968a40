"""Which engine carries out the runs of a target: this host, or what was attached."""

import threading
from dataclasses import replace
from typing import Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from runyard.compute.base import Compute
from runyard.compute.ray import RayCompute, find_head
from runyard.compute.ray import check_settings as check_ray
from runyard.compute.ray import settled as settled_ray
from runyard.compute.ray_head import NAME, OWN, RayHead
from runyard.compute.remote import Reach
from runyard.compute.slurm import SlurmCompute
from runyard.compute.slurm import check_settings as check_slurm
from runyard.compute.ssh import SshCompute, list_warnings
from runyard.compute.ssh import check_settings as check_ssh
from runyard.errors import ComputeTargetException, ServiceException
from runyard.protocol.compute import ClusterSpec, EngineKind, EngineSpec

_Key = Tuple[str, Tuple[Tuple[str, str], ...]]


class Engines:
    """The engines of one server; each is made once, when a run first needs it."""

    def __init__(self, local: Compute, reach: Reach) -> None:
        self.local = local
        self._reach = reach
        self._lock = threading.Lock()
        self._made: Dict[_Key, Compute] = {}

    def of(self, spec: Optional[ClusterSpec]) -> Compute:
        """The engine of a target; None: of this host."""
        if spec is None or spec.engine is None:
            return self.local
        key = _key(spec.engine)
        with self._lock:
            if key not in self._made:
                self._made[key] = _make(spec.engine, self._reach)
            return self._made[key]

    def retire(self, specs: Iterable[ClusterSpec], busy: Collection[Compute]) -> None:
        """Close what no target needs any more and what has no attempts; in a thread, since it may be waited for."""
        needed = {_key(one.engine) for one in specs if one.engine is not None}
        with self._lock:
            gone = [key for key, one in self._made.items() if key not in needed and one not in busy]
            closing = [self._made.pop(key) for key in gone]
        for one in closing:
            threading.Thread(target=one.close, name="retire", daemon=True).start()

    def list_warnings(self, spec: EngineSpec) -> List[str]:
        """What keeps runs from working on a machine that is to be attached, a sentence each; ComputeTargetException
        where it cannot be entered."""
        return list_warnings(spec, self._reach)

    def seal(self, spec: ClusterSpec) -> ClusterSpec:
        """The spec as it is kept: its secrets open for this server alone."""
        if spec.engine is None:
            return spec
        place = spec.engine.place
        sealed = {name: self._reach.seal(text, place) for name, text in spec.engine.secrets.items()}
        return replace(spec, engine=replace(spec.engine, secrets=sealed))

    def begin(self, spec: ClusterSpec) -> None:
        """Start what a new target has of its own; ComputeTargetException where that fails. May take a minute."""
        if self._find_own(spec) is None or spec.engine is None:
            return
        # Not the one that runs go to: no target has that yet, so that it could be retired meanwhile.
        made = _make(spec.engine, self._reach)
        try:
            made.prepare()
        except ServiceException as error:
            raise ComputeTargetException(str(error)) from None
        finally:
            made.close()

    def end(self, spec: ClusterSpec) -> None:
        """End what a target had of its own. Absent: fine."""
        head = self._find_own(spec)
        if head is None or spec.engine is None:
            return
        with self._lock:
            made = self._made.pop(_key(spec.engine), None)
        if made is not None:
            made.close()
        head.end()

    def end_others(self, specs: Sequence[ClusterSpec]) -> None:
        """End what no target of those has: a server that was killed has left it."""
        folder = self._reach.heads_folder
        kept = {spec.engine.settings.get(NAME) for spec in specs if spec.engine is not None}
        for one in folder.glob("*/head.json"):
            if one.parent.name not in kept:
                RayHead(one.parent).end()

    def prepare(self) -> None:
        """Make the first start on this host a fast one."""
        self.local.prepare()

    def _find_own(self, spec: ClusterSpec) -> Optional[RayHead]:
        if spec.engine is None or not is_on_this_host(spec.engine):
            return None
        return find_head(spec.engine.settings, self._reach)

    def close(self) -> None:
        """End what works in the background; attempts go on."""
        for one in (self.local, *self._made.values()):
            one.close()


def settled(spec: ClusterSpec, workspace: str, cpus: int) -> ClusterSpec:
    """A new target as it is kept; ``cpus`` are this host's."""
    return settled_ray(spec, workspace, cpus)


def is_on_this_host(spec: EngineSpec) -> bool:
    """Are the engine's nodes this host?"""
    return spec.settings.get("address") == OWN and spec.kind == EngineKind.RAY


def check_engine(spec: EngineSpec) -> None:
    """ComputeTargetException where an engine cannot be attached so."""
    checks = {
        EngineKind.SLURM: lambda: check_slurm(spec.settings),
        EngineKind.RAY: lambda: check_ray(spec.settings),
        EngineKind.SSH: lambda: check_ssh(spec),
    }
    if spec.kind not in checks:
        raise ComputeTargetException(
            "There is no engine {!r}; attach one of: {}.".format(spec.kind[:40], ", ".join(sorted(checks)))
        )
    for name, text in spec.settings.items():
        if not text.isprintable():
            raise ComputeTargetException(f"The setting {name[:80]!r} is a line of text, not {text[:80]!r}.")
    checks[spec.kind]()


def _key(spec: EngineSpec) -> _Key:
    return spec.kind, tuple(sorted({**spec.settings, **spec.secrets}.items()))


def _make(spec: EngineSpec, reach: Reach) -> Compute:
    if spec.kind == EngineKind.SSH:
        return SshCompute(spec, reach)
    makers: Mapping[str, type] = {EngineKind.SLURM: SlurmCompute, EngineKind.RAY: RayCompute}
    made: Compute = makers[spec.kind](spec.settings, reach)
    return made
