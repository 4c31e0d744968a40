"""The loop that moves runs: woken by a bell (a wish, a report, a build), and each second as a safety net."""

import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from sqlalchemy import Connection, Row

from runyard.compute.base import Compute
from runyard.compute.engines import Engines
from runyard.compute.gpus import Gpus
from runyard.compute.remote import WAITS_FOR_ANSWER, EngineAwayError
from runyard.control import runs as life
from runyard.control.builds import Builds, BuildState
from runyard.control.places import GpuView, Waiting, gpus_of, view_cluster, view_gpus
from runyard.control.plan import make_plan
from runyard.control.run_logs import set_aside, show_build_log
from runyard.control.schedule import HANDED_OVER_MAX, LOCAL, NodeView, decide
from runyard.db import datasets, datastores, experiments, fleet, identity, meetings, runs, workspaces
from runyard.db.engine import Database
from runyard.errors import AzureMLException, StorageFullError
from runyard.files.tails import tail_of
from runyard.protocol.compute import ClusterSpec, EngineKind, NodeState, find_vm_size
from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.experiments import Experiment
from runyard.protocol.meeting import NodeReport, Phase
from runyard.protocol.plan import Observation, ObservedState, ReportBatch, ReportKind, ReportReply
from runyard.protocol.runs import RunError, RunStatus
from runyard.protocol.workspaces import Workspace

#: Between two looks at everything when no bell rings, seconds.
TICK_S = 1.0
#: How often a lost runner's record is completed by a new one before the run fails, and a start is tried.
RECOVERIES_MAX, STARTS_MAX = 3, 5
#: Most runs that come to the queue in one round, so that one transaction never holds the writer up for long.
PREPARED_MAX = 32

#: How long a runner that lives may say nothing (six of its signs of life), and after a cancel before it is killed.
SILENT_S, DEAF_S = 30, 15
#: How long an attempt that its engine sees no more may take to say its first word, seconds.
FIRST_WORD_S = 30.0
#: How long an attempt that has to end itself, since it does not reach this server, may take for that, seconds.
FENCE_GRACE_S = 15.0

_UNPREPARED = (RunStatus.STARTING, RunStatus.PREPARING)

#: Settings of clusters, each with its workspace.
Clusters = List[Tuple[str, ClusterSpec]]

_log = logging.getLogger("runyard.control")


class Loop(threading.Thread):
    """Moves every run of one server: carries out what users wish and runners report."""

    def __init__(
        self,
        database: Database,
        engines: Engines,
        builds: Builds,
        kit: Callable[[], str],
        logs_folder: Path,
        local_slots: int,
        allow_private_urls: bool,
        on_event: Callable[[str], None],
        gpus: Optional[Gpus] = None,
        processes_max: Optional[int] = None,
    ) -> None:
        super().__init__(name="control", daemon=True)
        self._database = database
        self._engines = engines
        #: The engines that had attempts when they were asked last.
        self._polled: Set[Compute] = set()
        #: Settings of each cluster, by workspace and name, as of the last round.
        self._specs: Dict[Tuple[str, str], ClusterSpec] = {}
        self._builds = builds
        self._kit = kit
        self._logs_folder = logs_folder
        self._local_slots = local_slots
        self._allow_private_urls = allow_private_urls
        self._processes_max = processes_max
        self._on_event = on_event
        self._gpus = gpus
        self._bell = threading.Event()
        self._is_stopping = False
        self._started_at = _now_us()
        self._owners: Dict[Tuple[str, str], Tuple[Workspace, Experiment]] = {}
        #: By attempt, while it is active.
        self._starts: Counter[str] = Counter()
        self._recoveries: Counter[str] = Counter()
        #: When each further node of a run was heard of last, UTC microseconds, by (run, node); gone once it is done.
        self._heard: Dict[Tuple[str, int], int] = {}

    def ring(self) -> None:
        """Look at everything soon; carries no data, so a lost ring loses nothing but a second."""
        self._bell.set()

    def stop(self) -> None:
        """End the loop after its present round."""
        self._is_stopping = True
        self.ring()
        self.join()

    def hear(self, run_id: str, report: NodeReport, now: int) -> None:
        """A node of a run gave a sign of life; the first one's are its reports."""
        if report.node > 0 and report.phase != Phase.STORED:
            self._heard[run_id, report.node] = now
        else:
            self._heard.pop((run_id, report.node), None)

    async def take_reports(self, workspace: str, run_id: str, batch: ReportBatch) -> ReportReply:
        """Keep a runner's reports, and whatever they change, before they are acknowledged."""
        reply = await self._database.write_soon(
            lambda connection: life.take_reports(connection, workspace, run_id, batch, _now_us())
        )
        self._on_event(run_id)
        if any(report.kind == ReportKind.STORED for report in batch.reports):
            # A place is free.
            self.ring()
        return reply

    def run(self) -> None:
        checked_at = 0.0
        while not self._is_stopping:
            self._bell.wait(TICK_S)
            self._bell.clear()
            try:
                self.tick(is_full=time.monotonic() - checked_at >= TICK_S)
            except Exception:  # noqa: BLE001 - one failed round must not end the loop
                _log.exception("a round of the control loop failed; the next one tries again")
                time.sleep(0.1)
            if time.monotonic() - checked_at >= TICK_S:
                checked_at = time.monotonic()

    def tick(self, is_full: bool) -> None:
        """One round: wishes, environments, the queue; a full one looks at every run, and at the compute target."""
        clusters, nodes, rows = self._look(is_full)
        self._carry_out_cancels([row for row in rows if row.cancel_requested])
        unprepared = [row for row in rows if row.status in _UNPREPARED and not row.cancel_requested]
        ready = self._prepare(unprepared)
        if is_full or ready or any(map(_is_waiting, rows)):
            self._schedule(rows, ready, clusters, nodes)
        if is_full and (rows or self._polled):
            self._evict(nodes, rows)
            self._poll()
        if is_full:
            self._engines.retire(self._specs.values(), self._polled)

    def _look(self, is_full: bool) -> Tuple[Clusters, Sequence[Row[Any]], Sequence[Row[Any]]]:
        """Clusters, nodes and the runs to decide about.

        No more runs of one target can start at once than it has places, so the first ones of its queue are enough;
        each second all are looked at, since that for which they wait may have changed.
        """
        with self._database.read() as connection:
            clusters, nodes = fleet.read_fleet(connection)
            self._specs = {(workspace, one.name): one for workspace, one in clusters}
            if is_full:
                return clusters, nodes, runs.active_rows(connection)
            places = [(workspace, one.name, _starts_max(one)) for workspace, one in clusters]
            return clusters, nodes, runs.next_rows(connection, [(None, LOCAL, self._local_slots), *places])

    def _carry_out_cancels(self, rows: Sequence[Row[Any]]) -> None:
        for row in rows:
            if self._write(life.cancel, row.id) and row.key is not None:
                self._engine_of(row).stop(row.key)

    def _evict(self, nodes: Sequence[Row[Any]], rows: Sequence[Row[Any]]) -> None:
        """Tell the runs on nodes that are taken away to end; what they hear is TERM, and why."""
        taken = {node.run_id for node in nodes if node.state == NodeState.PREEMPTED}
        for row in rows:
            if row.id in taken and row.key is not None:
                self._engine_of(row).stop(row.key)

    def _prepare(self, rows: Sequence[Row[Any]]) -> Dict[str, str]:
        """Locks, by run, of those whose environment is ready; the others' are built, and they say so meanwhile."""
        found: Dict[str, str] = {}
        seen: Dict[Tuple[str, bool], Tuple[EnvironmentSpec, BuildState]] = {}
        unready: List[Tuple[Row[Any], EnvironmentSpec, str]] = []
        with self._database.read() as connection:
            for row in rows:
                spec, key = runs.get_environment(connection, row.id)
                lock = self._builds.find_ready(connection, key, self._is_here(row))
                if lock is None:
                    unready.append((row, spec, key))
                    continue
                self._builds.forget(spec)
                found[row.id] = lock.digest
                if len(found) == PREPARED_MAX:
                    break
        for row, spec, key in unready:
            is_here = self._is_here(row)
            if (key, is_here) not in seen:
                seen[key, is_here] = spec, self._builds.request(spec, is_here)
            digest = self._follow(row, spec, seen[key, is_here][1])
            if digest:
                found[row.id] = digest
            if len(found) >= PREPARED_MAX:
                break
        if len(found) >= PREPARED_MAX:
            self.ring()
        for spec, state in seen.values():
            if state.state == "failed":
                # Every run that waited for it has heard; the next submission tries again.
                self._builds.forget(spec)
        return found

    def _follow(self, row: Row[Any], spec: EnvironmentSpec, state: BuildState) -> str:
        """Let a run show how far its environment is; the digest of its lock once it is ready, '' before."""
        show_build_log(self._logs_folder, row.id, state.log_path)
        if state.state == "ready" and state.lock is not None:
            return state.lock.digest
        if state.state == "failed":
            error = RunError("EnvironmentError", state.error, tail_of(str(state.log_path)))
            self._write(life.fail, row.id, error)
        else:
            doing = "resolved" if state.state == "resolving" else "built"
            reason = "Its environment {!r} is being {}.".format(spec.name or "unnamed", doing)
            if row.reason != reason:
                self._write(life.prepare, row.id, reason)
        return ""

    def _schedule(
        self,
        rows: Sequence[Row[Any]],
        ready: Dict[str, str],
        clusters: Clusters,
        nodes: Sequence[Row[Any]],
    ) -> None:
        """Decide, write the whole decision down, then start what it starts."""
        waiting = [row for row in rows if row.id in ready or _is_waiting(row)]
        decision = decide(
            [
                Waiting(row.id, row.workspace, row.target, row.node_count, row.queued_at or _now_us(), row.turn)
                for row in waiting
            ],
            [_view(node) for node in nodes],
            [view_cluster(workspace, one) for workspace, one in clusters],
            sum(1 for row in rows if row.key is not None and row.target == LOCAL),
            self._local_slots,
            _now_us(),
            self._see_gpus(rows, waiting) if waiting else GpuView(),
        )
        known = {row.id: row.reason for row in waiting}
        news = {run_id: why for run_id, why in decision.reasons.items() if known[run_id] != why}
        if not (ready or news or decision.assigned or decision.added or decision.removed):
            return
        secrets = {run_id: identity.new_secret("ryr") for run_id, _ in decision.assigned}
        started = self._database.write(
            lambda connection: life.place(connection, decision, ready, news, secrets, _now_us())
        )
        for run_id in {*ready, *news, *started}:
            self._on_event(run_id)
        for run_id in started:
            self._launch(run_id, secrets[run_id])
        targets = {row.id: row.target for row in waiting}
        if any(not found and targets[run_id] != LOCAL for run_id, found in decision.assigned):
            # More of them may wait to be handed over.
            self.ring()

    def _see_gpus(self, rows: Sequence[Row[Any]], waiting: Sequence[Row[Any]]) -> GpuView:
        """This host's GPUs as the runs that have some leave them; ``rows`` holds all that have begun."""
        specs = [self._specs.get((row.workspace, row.target)) for row in waiting]
        needs_none = not any(gpus_of(spec) for spec in specs if spec is not None)
        found = () if self._gpus is None else self._gpus.list(may_be_old=needs_none)
        begun = [(row.target == LOCAL, row.gpus) for row in rows if row.key is not None and row.gpus]
        trouble = "" if self._gpus is None else self._gpus.trouble
        return view_gpus({one.index: one.user for one in found}, begun, trouble)

    def _launch(self, run_id: str, secret: str) -> None:
        """Hand the attempt to the compute target; its key is stored already, so a crash here is found by polling."""
        with self._database.read() as connection:
            row = runs.find_row(connection, run_id)
            if row is None or row.key is None or row.status != RunStatus.QUEUED:
                return
            spec = runs.get_spec(connection, run_id)
            lock = fleet.get_lock(connection, row.lock)
            found = {
                one.dataset_id: datasets.get_dataset(connection, row.workspace, one.dataset_id)
                for one in spec.inputs
                if one.dataset_id is not None
            }
            # Most runs have no data at all.
            stores = {}
            if spec.inputs or spec.outputs:
                stores = {one.name: one for one in datastores.list_datastores(connection, row.workspace)}
            place = self._owner_of(connection, row.workspace, spec.experiment)
            engine = self._engine_of(row)
            # Only where another attempt may begin is there a reason for this one to end itself.
            fence_s = engine.fence_s if engine.fence_s and life.may_retry(connection, row) else None
        if lock is None:
            self._write(
                life.fail, run_id, RunError("SystemError", "The lock of its environment is gone; submit again.")
            )
            return
        try:
            target = self._specs.get((row.workspace, row.target))
            # A machine that builds it needs the passwords of its indexes.
            lock = lock if self._is_here(row) else self._builds.open_lock(lock)
            plan = make_plan(
                spec, *place, row.attempt, lock, self._kit(), found, stores, self._allow_private_urls,
                EngineKind.LOCAL if target is None else target.kind, fence_s, row.gpus,
                None if target is None else find_vm_size(target.vm_size), self._processes_max,
            )  # fmt: skip
            set_aside(self._logs_folder, row.id, row.attempt)
            engine.start(row.key, plan, secret)
        except StorageFullError as error:
            _log.warning("run %s cannot be started yet: %s", run_id, error)
        except EngineAwayError as error:
            self._say(row, f"{WAITS_FOR_ANSWER}{error}")
        except (AzureMLException, OSError) as error:
            self._starts[row.key] += 1
            _log.warning("run %s could not be started: %s", run_id, error)
            if self._starts[row.key] >= STARTS_MAX:
                self._write(life.fail, run_id, RunError("SystemError", f"It could not be started: {error}"))

    def _owner_of(self, connection: Connection, workspace: str, experiment: str) -> Tuple[Workspace, Experiment]:
        """Where a run belongs; only what never changes is asked of it, so it is read once."""
        found = self._owners.get((workspace, experiment))
        if found is None:
            found = (
                workspaces.get_workspace(connection, workspace),
                experiments.get_experiment(connection, workspace, experiment),
            )
            self._owners[workspace, experiment] = found
        return found

    def _poll(self) -> None:
        with self._database.read() as connection:
            rows = {row.key: row for row in runs.active_rows(connection) if row.key is not None}
        for tries in (self._starts, self._recoveries):
            for key in tries.keys() - rows.keys():
                del tries[key]
        moving = {row.id for row in rows.values()}
        for run_id, node in [one for one in list(self._heard) if one[0] not in moving]:
            del self._heard[run_id, node]
        observed = self._observe(rows)
        for key in rows.keys() - observed.keys():
            self._miss(rows[key], "Its compute target says nothing of it now, and it")
        for key, seen in observed.items():
            row = rows[key]
            if seen.state == ObservedState.ALIVE:
                self._listen(row, seen.detail)
            elif seen.state == ObservedState.WAITING and row.started_at is None:
                self._say(row, seen.detail)
            elif seen.state == ObservedState.REFUSED:
                self._write(life.fail, row.id, RunError("SystemError", f"It could not be started: {seen.detail}"))
            elif seen.state == ObservedState.UNKNOWN and row.status == RunStatus.QUEUED:
                self._restart(row)
            elif (
                seen.state == ObservedState.UNKNOWN and row.status == RunStatus.CANCEL_REQUESTED and not row.started_at
            ):
                self._write(life.fail, row.id, RunError("SystemError", "It was canceled before it started."))
            else:
                self._outlast(row, seen)

    def _observe(self, rows: Dict[str, Row[Any]]) -> Dict[str, Observation]:
        """What each engine sees of its own attempts, by key."""
        # An engine that had some until now hears that it has none any more.
        keys: Dict[Compute, List[str]] = {engine: [] for engine in self._polled}
        for key, row in rows.items():
            keys.setdefault(self._engine_of(row), []).append(key)
        self._polled = {engine for engine, mine in keys.items() if mine}
        found: Dict[str, Observation] = {}
        for engine, mine in keys.items():
            found.update(engine.poll(mine))
        return found

    def _engine_of(self, row: Row[Any]) -> Compute:
        """Who carries out that run."""
        return self._engines.of(self._specs.get((row.workspace, row.target)))

    def _is_here(self, row: Row[Any]) -> bool:
        """Is the run carried out on this host, where its environment is built before it starts?"""
        return self._engine_of(row) is self._engines.local

    def _say(self, row: Row[Any], reason: str) -> None:
        """Let a run that has not begun tell what it waits for; a row is written where that is news."""
        if row.status == RunStatus.QUEUED and row.reason != reason:
            self._write(life.explain_wait, row.id, reason)

    def _outlast(self, row: Row[Any], seen: Observation) -> None:
        """The attempt is gone, or its engine does not see it; WAITING: it does not reach one that has begun.

        One of which nothing began goes back to the queue; one that is gone, or was not heard of for longer than the
        fence, is recovered or lost; any other may live, and is waited for.
        """
        fence_s, is_waiting = self._engine_of(row).fence_s, seen.state == ObservedState.WAITING
        if self._begin_anew(row, seen):
            return
        detail = "Its compute target does not reach it." if is_waiting else seen.detail
        is_over = self._longest_silent_s(row) >= fence_s + FENCE_GRACE_S if fence_s else not is_waiting
        if seen.state == ObservedState.GONE or is_over:
            self._recover(row, detail)
        else:
            self._miss(row, f"{detail or 'Its compute target does not know of it.'} It")

    def _begin_anew(self, row: Row[Any], seen: Observation) -> bool:
        """Have a run that its engine has lost with its node, before anything of it began, wait for another one."""
        if row.status != RunStatus.QUEUED or self._is_here(row) or (row.report_seq and row.node_count == 1):
            return False
        is_silent = seen.state == ObservedState.UNSEEN and self._longest_silent_s(row) >= FIRST_WORD_S
        if not (seen.is_node_lost or is_silent) or not self._write(life.begin_anew, row.id, row.key):
            return False
        self._engine_of(row).recover(row.key)
        return True

    def _listen(self, row: Row[Any], detail: str) -> None:
        """A runner that lives and says nothing (stopped, or its disk hangs): say so, and let no cancel wait for it."""
        now = _now_us()
        # Any node that does not hear of a cancel holds up its run, however lively the first one is.
        others = [at for (run_id, _), at in list(self._heard.items()) if run_id == row.id]
        deaf_s = max(self._silent_s(row), _seconds(now, max(min(others, default=now), self._started_at)))
        self._miss(row, f"{detail} Its runner" if detail else "Its runner lives, but")
        if row.status == RunStatus.CANCEL_REQUESTED and min(deaf_s, _seconds(now, row.reason_at)) >= DEAF_S:
            _log.warning("the runner of %s does not listen to a cancel; it is killed", row.key)
            self._engine_of(row).kill(row.key)

    def _miss(self, row: Row[Any], what: str) -> None:
        """Say of a run that was silent for long that it does not respond; ``what`` begins the sentence."""
        silent_s = self._silent_s(row)
        if row.status == RunStatus.RUNNING and silent_s >= SILENT_S:
            self._write(life.miss, row.id, f"{what} was not heard of for {silent_s} seconds.")

    def _silent_s(self, row: Row[Any]) -> int:
        return _seconds(_now_us(), max(row.heard_at or row.reason_at or 0, self._started_at))

    def _longest_silent_s(self, row: Row[Any]) -> int:
        """As ``_silent_s``, of the node that has said nothing for longest and is not done: the others may live on."""
        if row.node_count == 1:
            return self._silent_s(row)
        with self._database.read() as connection:
            known = meetings.list_nodes(connection, row.id, row.attempt)
        done = {one.node for one in known if one.phase == Phase.STORED}
        least = max(row.reason_at or 0, self._started_at)
        heard = [self._heard.get((row.id, one), 0) for one in range(1, row.node_count) if one not in done]
        return max(self._silent_s(row), *(_seconds(_now_us(), max(at, least)) for at in heard), 0)

    def _restart(self, row: Row[Any]) -> None:
        """The key was stored but the attempt never started: start it now, with a new token.

        One that ended since ``row`` was read leaves no trace of its start either, so it is looked at again.
        """
        secret = identity.new_secret("ryr")
        if self._database.write(lambda connection: life.start_again(connection, row, secret, _now_us())):
            self._launch(row.id, secret)
        elif row.report_seq > 0:
            # It has begun, and its engine has forgotten it.
            self._outlast(row, Observation(row.key, ObservedState.UNKNOWN))

    def _recover(self, row: Row[Any], detail: str) -> None:
        """The runner is gone without having finished: another one completes its record, a few times at the most."""
        if self._recoveries[row.key] < RECOVERIES_MAX:
            _log.warning("the runner of %s is gone; its record is being completed", row.key)
            try:
                if not self._engine_of(row).recover(row.key):
                    self._write(life.lose, row.id, row.key, detail)
                    return
            except StorageFullError as error:
                _log.warning("run %s cannot be recovered yet: %s", row.id, error)
                return
            except (AzureMLException, OSError) as error:
                _log.warning("run %s could not be recovered: %s", row.id, error)
            self._recoveries[row.key] += 1
            return
        message = f"Its runner is gone and its record could not be completed. {detail}"
        self._write(life.fail, row.id, RunError("SystemError", message.strip()))

    def _write(self, step: Callable[..., Any], run_id: str, *arguments: Any) -> Any:
        result = self._database.write(lambda connection: step(connection, run_id, *arguments, _now_us()))
        self._on_event(run_id)
        return result


def _view(node: Row[Any]) -> NodeView:
    is_leaving = node.state in (NodeState.LEAVING, NodeState.PREEMPTED)
    return NodeView(node.id, node.workspace, node.cluster, node.run_id, node.since, is_leaving)


def _starts_max(spec: ClusterSpec) -> int:
    """How many of a target's runs can start in one round at the most."""
    return HANDED_OVER_MAX if spec.has_own_queue else spec.max_nodes


def _is_waiting(row: Row[Any]) -> bool:
    return row.status == RunStatus.QUEUED and row.key is None and not row.cancel_requested


def _seconds(now: int, since: int) -> int:
    return (now - since) // 1_000_000


def _now_us() -> int:
    return time.time_ns() // 1000
