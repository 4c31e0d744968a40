"""A small world in which the real loop moves runs on a real database: engines that do as a history says, and users.

An attempt here is what a runner is to the server: it reports in order until it is answered, ends itself where it must
not live on, and may be killed, stopped, cut off or lost sight of at any moment, even between two calls of one round.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from runyard.compute.remote import Reach
from runyard.control import runs as life
from runyard.control.builds import Builds
from runyard.control.environment_files import EnvironmentFiles
from runyard.control.loop import Loop
from runyard.control.sealing import Sealer
from runyard.db import experiments, fleet, runs, workspaces
from runyard.db.engine import Database
from runyard.db.tables import nodes as node_table
from runyard.db.tables import runs as run_table
from runyard.errors import ConflictError
from runyard.protocol.compute import ClusterSpec, EngineKind, EngineSpec, find_vm_size
from runyard.protocol.environments import Builder, EnvironmentSpec, Lock, spec_digest
from runyard.protocol.meeting import NodeReport
from runyard.protocol.plan import ExitCause, ReportBatch, ReportKind
from runyard.protocol.runs import TERMINAL, RunSpec, RunStatus
from runyard.protocol.workspaces import WorkspaceSpec
from runyard.storage.sealing import HostSeal
from tests.control.recorded import FENCE_S, GPUS, Attempt, Here, Recorded, ServerKilledError, SomeGpus

SECOND = 1_000_000
#: When each world begins, UTC microseconds.
BEGIN = 1_700_000_000 * SECOND
LOCAL_SLOTS = 2
CLUSTERS = (
    ClusterSpec("cpu", max_nodes=3, idle_seconds_before_scaledown=20),
    ClusterSpec("cheap", vm_priority="lowpriority", min_nodes=1, max_nodes=4, idle_seconds_before_scaledown=5),
    ClusterSpec("gpu", "STANDARD_NC6", "lowpriority", max_nodes=3, idle_seconds_before_scaledown=5),
    ClusterSpec("gpus", "STANDARD_NC12", max_nodes=2, idle_seconds_before_scaledown=5),
    ClusterSpec("ray", vm_priority="lowpriority", max_nodes=3, engine=EngineSpec(EngineKind.RAY)),
    ClusterSpec("slurm", vm_priority="lowpriority", max_nodes=9, engine=EngineSpec(EngineKind.SLURM)),
)
_AS_IT_IS = EnvironmentSpec()
_LOCK = Lock("0" * 64, Builder.USER_MANAGED)


class World:
    """One home, its server, and what a history may do to them."""

    def __init__(self, home: Path, chance: random.Random) -> None:
        self.home, self.chance = home, chance
        #: UTC microseconds.
        self.now = BEGIN
        self.here, self.far = Recorded(self, 0.0, True), Recorded(self, FENCE_S, False)
        self.gpus = SomeGpus()
        self.trouble = ""
        #: What happened, for whoever reads a failure.
        self.log: list[str] = []
        self._count = 0
        self._depth = 0
        self._has_races = True
        self._ended: dict[str, Any] = {}
        self._busy: dict[str, int] = defaultdict(int)
        self._open()
        self._set_up()

    def _set_up(self) -> None:
        self.write(lambda c: workspaces.create_workspace(c, WorkspaceSpec("ws"), "ann", self.now))
        self.write(lambda c: experiments.create_experiment(c, "ws", "trial", "ann", self.now))
        self.write(lambda c: fleet.save_lock(c, spec_digest(_AS_IT_IS), _LOCK, "ann", self.now))
        for spec in CLUSTERS:
            self.write(lambda c, spec=spec: fleet.create_cluster(c, spec, "ws", (), "ann", self.now))

    def _open(self) -> None:
        self.database = Database(self.home / "runyard.db")
        seal = HostSeal(self.home / "vault.key")
        files = EnvironmentFiles(self.home / "environment-files")
        self.builds = Builds(
            self.database, self.home / "builds", self.home / "cache", Sealer(seal), files, lambda: None
        )
        reach = Reach(
            lambda: "http://127.0.0.1:9", self.home, "mark", "trusted", self.home / "hosts", seal.seal, seal.open
        )
        engines = Here(self.here, self.far, reach)
        self.loop = Loop(
            self.database, engines, self.builds, lambda: "kit", self.home / "logs", LOCAL_SLOTS, True, lambda _: None,
            self.gpus,
        )  # fmt: skip

    def close(self) -> None:
        self.builds.close()
        self.database.close()

    def write(self, operation: Callable[[Any], Any]) -> Any:
        return self.database.write(operation)

    def attempts(self) -> list[Attempt]:
        """Those that live."""
        found = [*self.here.attempts.values(), *self.far.attempts.values()]
        return [one for one in found if one.is_alive and not one.is_over]

    def meanwhile(self) -> None:
        """Something happens between two calls of a round, sometimes: nothing waits for the loop."""
        if self._has_races and self._depth == 0 and self.chance.random() < 0.15:
            self._depth += 1
            self.chance.choice([self.act, self.act, self.cancel, self.kill])()
            self._depth -= 1

    def take_trouble(self) -> str:
        found, self.trouble = self.trouble, ""
        return found

    # What users do.

    def submit(self) -> None:
        self._count += 1
        target = self.chance.choice(["local", "local", *(one.name for one in CLUSTERS)])
        spec = RunSpec(
            f"run-{self._count}",
            "trial",
            script="train.py",
            target=target,
            node_count=1 if target == "local" else self.chance.choice([1, 1, 1, 2, 3]),
            max_infrastructure_retries=self.chance.choice([None, None, 1]),
            priority=self.chance.choice([0, 0, 0, 1, -1]),
        )
        self.log.append(f"{spec.run_id} asks for {spec.node_count} of {target}")
        self.write(lambda c: runs.create_run(c, spec, "ws", "ann", self.now))

    def cancel(self) -> None:
        active = [row.id for row in self.rows() if row.ended_at is None]
        if active:
            run_id = self.chance.choice(active)
            self.log.append(f"{run_id} shall be canceled")
            self.write(lambda c: life.request_cancel(c, "ws", run_id, "ann", self.now))

    def resize(self) -> None:
        spec = self.chance.choice(CLUSTERS[:5])
        bounds = sorted([self.chance.randint(0, 2), self.chance.randint(1, 4)])
        new = ClusterSpec(
            spec.name, spec.vm_size, spec.vm_priority, *bounds, spec.idle_seconds_before_scaledown, engine=spec.engine
        )
        self.log.append(f"{spec.name} goes to {bounds}")
        self.write(lambda c: fleet.change_cluster(c, "ws", spec.name, new, self.now))

    def retire(self) -> None:
        found = self.nodes()
        if found:
            node, evict = self.chance.choice(found), self.chance.random() < 0.5
            self.log.append(f"{node.id} leaves{' now' if evict else ''}")
            name = node.id.rpartition("/")[2]
            self.write(lambda c: fleet.retire_node(c, "ws", node.cluster, name, evict, self.now))

    # What runners do.

    def act(self) -> None:
        """A runner does its next thing, and mostly tells of it."""
        alive = self.attempts()
        if alive:
            one = self.chance.choice(alive)
            self._proceed(one)
            if self.chance.random() < 0.8:
                self.send(one)

    def _proceed(self, one: Attempt) -> None:
        if not one.is_let_in:
            one.say(ReportKind.PREPARING, message="Its runner has begun.")
        elif one.is_told and ReportKind.EXITED not in one.kinds:
            cause = ExitCause.CANCELED if one.is_canceled else ExitCause.RUNNER_LOST
            one.say(ReportKind.EXITED, exit_code=143, cause=cause, error_code="SystemError")
        elif ReportKind.EXITED in one.kinds:
            one.say(ReportKind.STORED, error_code=self.chance.choice(["", "", "", "StorageError"]))
        elif ReportKind.STARTED not in one.kinds and self.chance.random() < 0.9:
            one.say(ReportKind.STARTED)
        elif ReportKind.STARTED not in one.kinds:
            one.say(ReportKind.EXITED, cause=ExitCause.PREPARATION, error_code="DataError")
        else:
            code = self.chance.choice([0, 0, 1, 137])
            cause = self.chance.choice([ExitCause.SCRIPT, ExitCause.SCRIPT, ExitCause.TIME_LIMIT, ExitCause.PEER])
            one.say(ReportKind.EXITED, exit_code=code, cause=cause, error_code="UserError")

    def send(self, one: Attempt) -> None:
        """All that was not answered goes again; sometimes the answer is lost, or only a part arrives."""
        if one.is_silent or one.is_over or not one.is_alive:
            return
        batch = one.unsent[self.chance.randint(0, len(one.unsent)) :] if self._is_odd() else list(one.unsent)
        try:
            reply = self.write(lambda c: life.take_reports(c, "ws", one.run_id, ReportBatch(tuple(batch)), self.now))
        except ConflictError as error:
            if "is over" not in str(error):
                raise
            one.is_over = True
            return
        one.heard_at = self.now
        for number in range(1, one.plan.node_count):
            self.loop.hear(one.run_id, NodeReport(one.plan.attempt, number, 1), self.now)
        if self._is_odd():
            return
        one.is_let_in |= reply.acknowledged > 0
        if reply.cancel_requested:
            one.is_told = one.is_canceled = True
        one.unsent = [report for report in one.unsent if report.sequence > reply.acknowledged]
        one.is_over = not one.unsent and ReportKind.STORED in one.kinds
        self.log.append(f"{one.key} told {[report.kind for report in batch]}{' and is over' if one.is_over else ''}")

    def _is_odd(self) -> bool:
        return self._has_races and self.chance.random() < 0.1

    # What befalls them.

    def kill(self) -> None:
        alive = self.attempts()
        if alive:
            one = self.chance.choice(alive)
            self.log.append(f"{one.key} is killed")
            one.is_alive = False

    def hide(self) -> None:
        """The far engine loses sight of an attempt, or an attempt of its server, or both; or they find each other."""
        alive = self.attempts()
        # Those that were never heard of are the hardest to judge.
        new = [one for one in alive if not one.kinds]
        if alive:
            one = self.chance.choice(new if new and self.chance.random() < 0.5 else alive)
            one.is_silent = self.chance.random() < 0.5
            one.is_unseen = one.key in self.far.attempts and self.chance.random() < 0.7
            one.was_unseen |= one.is_unseen
            self.log.append(f"{one.key} is silent: {one.is_silent}, unseen: {one.is_unseen}")

    def disturb(self) -> None:
        self.trouble = self.chance.choice(["refused", "killed before", "killed after"])
        self.far.is_away = self.chance.random() < 0.3
        self.gpus.held = {index for index in range(GPUS) if self.chance.random() < 0.2}

    def restart(self) -> None:
        """The server dies, and comes again after a while."""
        self.log.append("the server starts again")
        self.close()
        self.pass_time(self.chance.choice([0, 1, 20, 100]), is_up=False)
        self._open()

    def pass_time(self, seconds: float, is_up: bool = True) -> None:
        """Time passes; runners give signs of life meanwhile, and those that may not live on end themselves."""
        self.now += int(seconds * SECOND)
        self.log.append(f"{seconds} seconds pass")
        for one in self.attempts():
            if is_up and not one.is_silent and self.now - one.heard_at >= 5 * SECOND:
                self.send(one)
            if one.plan.fence_s and self.now - one.heard_at >= one.plan.fence_s * SECOND:
                self.log.append(f"{one.key} ends itself")
                one.is_alive = False

    def tick(self, is_full: bool = True) -> None:
        try:
            self.loop.tick(is_full)
        except ServerKilledError:
            self.restart()

    # What must hold.

    def rows(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(run_table).order_by(run_table.c.row)))

    def nodes(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(node_table).order_by(node_table.c.id)))

    def check(self) -> None:
        """Whatever has happened, this is so."""
        rows, nodes = {row.id: row for row in self.rows()}, self.nodes()
        with self.database.read() as connection:
            specs = {spec.name: spec for _, spec in fleet.read_fleet(connection)[0]}
        held: dict[str, list[str]] = defaultdict(list)
        for node in nodes:
            if node.run_id is not None:
                held[node.run_id].append(node.id)
        for row in rows.values():
            self._check_run(row, held[row.id], specs.get(row.target))
        assert held.keys() <= rows.keys(), "a node is held by a run that is none"
        keyed = [row for row in rows.values() if row.target == "local" and row.key and row.ended_at is None]
        assert len(keyed) <= LOCAL_SLOTS, "more local runs than places"
        for name, spec in specs.items():
            here = [node for node in nodes if node.cluster == name]
            busy = sum(1 for node in here if node.run_id is not None)
            assert busy <= max(spec.max_nodes, self._busy[name]), f"{name} has more busy nodes than it may"
            self._busy[name] = busy
        self._check_attempts(rows)
        self._check_gpus(list(rows.values()), specs)

    def _check_run(self, row: Any, held: list[str], spec: ClusterSpec | None) -> None:
        is_over = row.status in TERMINAL
        assert is_over == (row.ended_at is not None)
        assert row.status in RunStatus.__dict__.values()
        if is_over:
            now = (row.status, row.ended_at, row.attempt, row.exit_code, row.error, row.event_seq)
            assert self._ended.setdefault(row.id, now) == now, f"{row.id} has moved after its end"
        assert row.id not in self._ended or is_over, f"{row.id} lives again"
        started = {**self.here.attempts, **self.far.attempts}
        skipped = [number for number in range(1, row.attempt) if f"{row.id}/{number}" not in started]
        assert not skipped, f"{row.id} is in attempt {row.attempt} and never was in {skipped}"
        has_nodes = spec is not None and not spec.has_own_queue and row.key is not None and not is_over
        assert len(held) == (row.node_count if has_nodes else 0), f"{row.id} ({row.status}) holds {held}"
        if has_nodes:
            assert row.node in held

    def _check_gpus(self, rows: list[Any], specs: dict[str, ClusterSpec]) -> None:
        """No GPU is given twice, nor is one of a cluster's run seen by a local one."""
        given: list[str] = []
        seen: set[str] = set()
        for row in rows:
            if row.key is None or row.ended_at is not None:
                continue
            spec = specs.get(row.target)
            if spec is None:
                seen |= set(row.gpus.split(",")) - {""}
            elif spec.engine is not None:
                assert row.gpus is None
            else:
                size = find_vm_size(spec.vm_size)
                mine = [one for node in row.gpus.split(";") for one in node.split(",") if one]
                assert size is not None
                assert len(mine) == row.node_count * size.gpus
                given += mine
        assert len(given) == len(set(given)), "a GPU was given twice"
        assert not seen & set(given), "a local run sees a GPU of another run"

    def _check_attempts(self, rows: dict[str, Any]) -> None:
        """What lives is the present attempt of a run that goes on: so no node ever carries two.

        Only an attempt without a fence may outlive its run where its engine has lost it: nothing starts in its place.
        """
        for one in self.attempts():
            row = rows[one.run_id]
            if ReportKind.STORED in one.kinds:
                continue  # It waits for the answer to its last report, and nothing else of it is left.
            if not one.is_let_in and row.key != one.key:
                continue  # It has begun nothing, and never will.
            if row.status in TERMINAL:
                may_outlive = one.was_unseen and not one.plan.fence_s
                assert may_outlive, f"{one.key} outlives its run"
            else:
                assert row.key == one.key, f"{one.key} lives beside {row.key}"

    def drain(self) -> None:
        """Nothing goes wrong any more, and what can end does: then all is free, and soon."""
        self._has_races, self.trouble, self.far.is_away = False, "", False
        self.gpus.held = set()
        for one in self.attempts():
            one.is_silent = one.is_unseen = False
        limits = {spec.name: spec.max_nodes for spec in self._specs()}
        for row in self.rows():
            is_too_large = row.target == "gpus" and row.node_count > GPUS // 2
            if row.ended_at is None and (is_too_large or row.node_count > limits.get(row.target, 1)):
                self.write(lambda c, row=row: life.request_cancel(c, "ws", row.id, "ann", self.now))
        for _ in range(200):
            for one in self.attempts():
                one.is_silent = one.is_unseen = False
                self._proceed(one)
                self.send(one)
            for far in self.far.attempts.values():
                far.is_unseen = False
            self.pass_time(2)
            self.tick()
            self.check()
            if all(row.ended_at is not None for row in self.rows()):
                break
        left = [f"{row.id} is {row.status}: {row.reason}" for row in self.rows() if row.ended_at is None]
        assert not left, left
        assert not [node.id for node in self.nodes() if node.run_id is not None]
        self.pass_time(2_000)
        for _ in range(2):
            self.tick()
        for spec in self._specs():
            here = [node for node in self.nodes() if node.cluster == spec.name]
            assert len(here) == (0 if spec.has_own_queue else spec.min_nodes), "what nobody needs leaves"

    def _specs(self) -> list[ClusterSpec]:
        with self.database.read() as connection:
            return [spec for _, spec in fleet.read_fleet(connection)[0]]
