"""The life of one run, step by step, on a real database: reports in any order, wishes in any state."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from runyard.control import runs as life
from runyard.db import experiments, fleet, identity, runs, workspaces
from runyard.db.engine import Database
from runyard.db.tables import nodes, run_events, tokens
from runyard.db.tables import runs as table
from runyard.errors import ConflictError, NotFoundError
from runyard.protocol.compute import ClusterSpec
from runyard.protocol.plan import ExitCause, Report, ReportBatch, ReportKind, ReportReply
from runyard.protocol.runs import TERMINAL, TRANSITIONS, Artifact, Run, RunError, RunKind, RunSpec, RunStatus
from runyard.protocol.workspaces import WorkspaceSpec
from tests.control.decided import assign, queue

NOW = 1_000
LIVE = sorted(set(TRANSITIONS) - TERMINAL)


class Stage:
    """A database with one run, and the steps of its life as the loop takes them."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.do(lambda c: workspaces.create_workspace(c, WorkspaceSpec("ws"), "ann", NOW))
        self.do(lambda c: experiments.create_experiment(c, "ws", "trial", "ann", NOW))
        self.do(
            lambda c: fleet.create_cluster(c, ClusterSpec("cheap", vm_priority="lowpriority"), "ws", (), "ann", NOW)
        )
        self.do(lambda c: fleet.add_node(c, "ws/cheap/node-0", "ws", "cheap", NOW))

    def do(self, operation: Any) -> Any:
        return self.database.write(operation)

    def submit(self, run_id: str = "run", **spec: Any) -> None:
        self.do(lambda c: runs.create_run(c, RunSpec(run_id, "trial", script="train.py", **spec), "ws", "ann", NOW))

    def start(self, node: str = "") -> None:
        """Up to the point where a runner has been started."""
        self.do(lambda c: life.prepare(c, "run", "Its environment is being built.", NOW))
        self.do(lambda c: queue(c, "run", "lock", "waits", NOW))
        assert self.do(lambda c: assign(c, "run", node, "secret", NOW))

    def report(self, *reports: Report, now: int = NOW) -> ReportReply:
        found: ReportReply = self.do(lambda c: life.take_reports(c, "ws", "run", ReportBatch(reports), now))
        return found

    def run(self, run_id: str = "run") -> Run:
        with self.database.read() as connection:
            return runs.get_run(connection, "ws", run_id)

    def row(self) -> Any:
        with self.database.read() as connection:
            return runs.find_row(connection, "run")

    def events(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(select(run_events.c.status).order_by(run_events.c.seq)).scalars())

    def node_run(self) -> str | None:
        with self.database.read() as connection:
            found: str | None = connection.execute(select(nodes.c.run_id)).scalar()
            return found


STARTED = Report(1, 1, ReportKind.STARTED)
EXITED = Report(1, 2, ReportKind.EXITED, exit_code=0, cause=ExitCause.SCRIPT)
STORED = Report(1, 3, ReportKind.STORED)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path / "runs.db")
    yield found
    found.database.close()


def test_reports_move_a_run_to_its_end(stage: Stage) -> None:
    stage.submit()
    stage.start()
    assert stage.report(STARTED).acknowledged == 1
    assert stage.run().status == RunStatus.RUNNING
    assert stage.report(EXITED).acknowledged == 2
    assert stage.run().status == RunStatus.FINALIZING
    assert stage.report(STORED).acknowledged == 3
    assert (stage.run().status, stage.run().exit_code, stage.run().error) == (RunStatus.COMPLETED, 0, None)


def test_all_reports_at_once_pass_through_every_state(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STARTED, EXITED, STORED)
    assert stage.run().status == RunStatus.COMPLETED
    seen = [status for i, status in enumerate(stage.events()) if i == 0 or stage.events()[i - 1] != status]
    assert seen[-4:] == ["Queued", "Running", "Finalizing", "Completed"]


def test_reports_that_come_again_change_nothing(stage: Stage) -> None:
    stage.submit()
    stage.start()
    for _ in range(3):
        assert stage.report(STARTED, EXITED).acknowledged == 2
    events = stage.events()
    stage.report(STARTED, EXITED)
    assert stage.events() == events
    stage.report(STARTED, EXITED, STORED)
    ended = stage.run()
    stage.report(STARTED, EXITED, STORED, now=NOW + 1)
    assert stage.run() == ended


def test_reports_in_the_wrong_order_within_a_request_are_taken_in_theirs(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STORED, EXITED, STARTED)
    assert stage.run().status == RunStatus.COMPLETED


def test_report_that_overtook_another_request_does_not_lose_it(stage: Stage) -> None:
    stage.submit()
    stage.start()
    reply = stage.report(EXITED)
    assert reply.acknowledged == 0, "what comes before it is still to be sent"
    stage.report(STARTED, EXITED, STORED)
    assert stage.run().status == RunStatus.COMPLETED


def test_report_of_a_stale_attempt_is_a_conflict_and_changes_nothing(stage: Stage) -> None:
    stage.submit(max_infrastructure_retries=1)
    stage.start()
    lost = Report(1, 2, ReportKind.EXITED, cause=ExitCause.RUNNER_LOST, error_code="SystemError", message="Lost.")
    stage.report(STARTED, lost, STORED)
    assert (stage.run().status, stage.run().attempt) == (RunStatus.QUEUED, 2)
    for report in (STARTED, EXITED, Report(3, 1, ReportKind.STARTED)):
        with pytest.raises(ConflictError, match="is over"):
            stage.report(report)
    assert (stage.run().status, stage.run().attempt) == (RunStatus.QUEUED, 2)


def test_second_attempt_is_reported_from_one_again(stage: Stage) -> None:
    stage.submit(max_infrastructure_retries=1)
    stage.start()
    stage.report(STARTED, Report(1, 2, ReportKind.EXITED, cause=ExitCause.RUNNER_LOST), STORED)
    assert stage.do(lambda c: assign(c, "run", "", "secret-2", NOW))
    assert stage.row().key == "run/2"
    stage.report(Report(2, 1, ReportKind.STARTED), Report(2, 2, ReportKind.EXITED, exit_code=0, cause="script"))
    stage.report(Report(2, 3, ReportKind.STORED))
    assert (stage.run().status, stage.run().attempt) == (RunStatus.COMPLETED, 2)


def test_low_priority_run_starts_again_three_times_and_then_fails(stage: Stage) -> None:
    stage.submit(target="cheap")
    stage.start("ws/cheap/node-0")
    for attempt in range(1, 5):
        assert stage.node_run() == "run"
        stage.report(
            Report(attempt, 1, ReportKind.STARTED),
            Report(attempt, 2, ReportKind.EXITED, "Lost.", cause=ExitCause.RUNNER_LOST, error_code="SystemError"),
            Report(attempt, 3, ReportKind.STORED),
        )
        assert stage.node_run() is None, "its node is free again"
        if attempt < 4:
            assert stage.run().status == RunStatus.QUEUED
            assert f"attempt {attempt}" in (stage.run().reason or "")
            secret = f"secret-{attempt}"
            assert stage.do(partial(assign, run_id="run", node_id="ws/cheap/node-0", secret=secret, now=NOW))
    assert stage.run().status == RunStatus.FAILED
    said = "Lost. It had started again 3 times, as often as max_infrastructure_retries lets it."
    assert stage.run().error == RunError("SystemError", said)


def test_dedicated_run_fails_at_once_when_its_runner_is_lost(stage: Stage) -> None:
    stage.submit()
    stage.start()
    lost = Report(1, 2, ReportKind.EXITED, "Lost.", cause=ExitCause.RUNNER_LOST, error_code="SystemError")
    stage.report(STARTED, lost, STORED)
    said = "Lost. It does not start again, unless max_infrastructure_retries or a target of low priority lets it."
    assert (stage.run().status, stage.run().error) == (RunStatus.FAILED, RunError("SystemError", said))


def test_run_whose_preparation_fails_never_runs(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(
        Report(1, 1, ReportKind.PREPARING, "Downloading."),
        Report(1, 2, ReportKind.EXITED, "No file.", cause=ExitCause.PREPARATION, error_code="DataError"),
    )
    assert stage.run().status == RunStatus.QUEUED
    stage.report(Report(1, 3, ReportKind.STORED))
    assert (stage.run().status, stage.run().error) == (RunStatus.FAILED, RunError("DataError", "No file."))
    assert RunStatus.RUNNING not in stage.events()


def test_exit_code_decides_between_completed_and_failed(stage: Stage) -> None:
    stage.submit()
    stage.start()
    failed = Report(1, 2, ReportKind.EXITED, "It raised.", exit_code=1, cause="script", error_code="UserError")
    stage.report(STARTED, failed, STORED)
    assert (stage.run().status, stage.run().exit_code) == (RunStatus.FAILED, 1)
    assert stage.run().error == RunError("UserError", "It raised.")


def test_run_whose_record_is_not_complete_is_not_completed(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STARTED, EXITED, Report(1, 3, ReportKind.STORED, "A file is gone.", error_code="StorageError"))
    assert stage.run().status == RunStatus.FAILED
    assert stage.run().error == RunError("StorageError", "A file is gone.")


def test_stored_without_an_exit_ends_nothing(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STARTED, Report(1, 2, ReportKind.STORED))
    assert stage.run().status == RunStatus.RUNNING


def test_reports_to_a_run_that_is_not_there_are_refused(stage: Stage) -> None:
    with pytest.raises(NotFoundError):
        stage.report(STARTED)


@pytest.mark.parametrize("status", LIVE)
@pytest.mark.parametrize("has_runner", [False, True])
def test_cancel_in_each_state(stage: Stage, status: str, has_runner: bool) -> None:
    stage.submit()
    key = "run/1" if has_runner else None
    stage.do(lambda c: c.execute(update(table).values(status=status, key=key)) and None)
    must_stop = stage.do(lambda c: life.cancel(c, "run", NOW))
    if status == RunStatus.FINALIZING:
        assert (must_stop, stage.run().status) == (False, status)
    elif has_runner or (status == RunStatus.CANCEL_REQUESTED and must_stop):
        assert (must_stop, stage.run().status) == (True, RunStatus.CANCEL_REQUESTED)
    else:
        assert (must_stop, stage.run().status) == (False, RunStatus.CANCELED)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_cancel_and_fail_of_an_ended_run_change_nothing(stage: Stage, status: str) -> None:
    stage.submit()
    stage.do(lambda c: c.execute(update(table).values(status=status, ended_at=NOW)) and None)
    before = stage.run()
    assert stage.do(lambda c: life.cancel(c, "run", NOW)) is False
    stage.do(lambda c: life.fail(c, "run", RunError("SystemError", "x"), NOW))
    assert stage.run() == before


@pytest.mark.parametrize("status", LIVE)
def test_a_run_can_fail_in_each_state(stage: Stage, status: str) -> None:
    stage.submit()
    stage.do(lambda c: c.execute(update(table).values(status=status)) and None)
    stage.do(lambda c: life.fail(c, "run", RunError("SystemError", "Why."), NOW))
    if status == RunStatus.CANCEL_REQUESTED:
        assert (stage.run().status, stage.run().error) == (RunStatus.CANCELED, None)
    else:
        assert (stage.run().status, stage.run().error) == (RunStatus.FAILED, RunError("SystemError", "Why."))


def test_cancelled_run_that_completed_nevertheless_is_completed(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STARTED)
    stage.do(lambda c: life.cancel(c, "run", NOW))
    stage.report(EXITED, STORED)
    assert stage.run().status == RunStatus.COMPLETED


def test_cancelled_run_ends_as_canceled_without_an_error(stage: Stage) -> None:
    stage.submit()
    stage.start()
    stage.report(STARTED)
    stage.do(lambda c: life.cancel(c, "run", NOW))
    stage.report(Report(1, 2, ReportKind.EXITED, exit_code=-15, cause=ExitCause.CANCELED), STORED)
    assert (stage.run().status, stage.run().error) == (RunStatus.CANCELED, None)


def test_runner_is_told_of_a_cancel_wish_with_its_next_report(stage: Stage) -> None:
    stage.submit()
    stage.start()
    assert not stage.report(STARTED).cancel_requested
    stage.do(lambda c: runs.request_cancel(c, "ws", "run", "ann", NOW))
    assert stage.report().cancel_requested


def test_cancelled_run_is_not_started_any_more(stage: Stage) -> None:
    stage.submit()
    stage.do(lambda c: queue(c, "run", "lock", "waits", NOW))
    stage.do(lambda c: runs.request_cancel(c, "ws", "run", "ann", NOW))
    assert not stage.do(lambda c: assign(c, "run", "", "secret", NOW))


def test_run_is_assigned_once(stage: Stage) -> None:
    stage.submit()
    stage.start()
    assert not stage.do(lambda c: assign(c, "run", "ws/cheap/node-0", "other", NOW))
    assert stage.node_run() is None


def test_token_of_a_run_is_its_own_and_ends_after_the_run(stage: Stage) -> None:
    stage.submit()
    stage.start()

    def principal(now: int) -> Any:
        with stage.database.read() as connection:
            return identity.find_principal(connection, "secret", now)

    assert (principal(NOW).run_id, principal(NOW).role, principal(NOW).workspace) == ("run", "run", "ws")
    assert principal(NOW + 10**15) is not None, "a run may last as long as it likes"
    stage.report(STARTED, EXITED, STORED)
    assert principal(NOW + life.TOKEN_GRACE_US - 1) is not None
    assert principal(NOW + life.TOKEN_GRACE_US) is None


@pytest.mark.parametrize("before", TRANSITIONS)
def test_advance_follows_the_table_and_nothing_else(stage: Stage, before: str) -> None:
    stage.submit()
    for after in TRANSITIONS:
        stage.do(lambda c: c.execute(update(table).values(status=before, ended_at=None)) and None)
        events = len(stage.events())
        step = partial(runs.advance, run_id="run", from_status=before, to_status=after, now=NOW)
        if after in TRANSITIONS[before]:
            assert stage.do(step)
            assert (stage.run().status, len(stage.events())) == (after, events + 1)
            assert (stage.run().ended_at == NOW) == (after in TERMINAL)
        else:
            with pytest.raises(ConflictError):
                stage.do(step)
            assert (stage.run().status, len(stage.events())) == (before, events)


def test_advance_from_a_status_that_the_run_has_no_longer_does_nothing(stage: Stage) -> None:
    stage.submit()
    events = stage.events()
    assert not stage.do(lambda c: runs.advance(c, "run", RunStatus.QUEUED, RunStatus.RUNNING, NOW))
    assert not stage.do(lambda c: runs.advance(c, "none", RunStatus.QUEUED, RunStatus.RUNNING, NOW))
    assert (stage.run().status, stage.events()) == (RunStatus.STARTING, events)


def test_every_state_but_not_started_can_be_reached_and_left_for_an_end() -> None:
    reached, frontier = {RunStatus.STARTING}, {RunStatus.STARTING}
    while frontier:
        frontier = {after for before in frontier for after in TRANSITIONS[before]} - reached
        reached |= frontier
    assert reached == set(TRANSITIONS)
    for status in LIVE:
        assert TRANSITIONS[status] & TERMINAL
    for status in TERMINAL:
        assert not TRANSITIONS[status]


def test_interactive_run_is_ended_by_its_own_word_once(stage: Stage) -> None:
    stage.submit("mine", kind=RunKind.INTERACTIVE)

    def end(status: str, error: str | None = None) -> None:
        stage.do(lambda c: life.end_interactive(c, runs.get_run(c, "ws", "mine"), status, error, "ann", NOW))

    end(RunStatus.FAILED, "It was me.")
    end(RunStatus.COMPLETED)
    assert (stage.run("mine").status, stage.run("mine").error) == (
        RunStatus.FAILED,
        RunError("UserError", "It was me."),
    )


def test_submitted_run_is_not_ended_by_a_user_s_word(stage: Stage) -> None:
    stage.submit()
    with pytest.raises(ConflictError, match="ends with its script"):
        stage.do(lambda c: life.end_interactive(c, runs.get_run(c, "ws", "run"), "Completed", None, "ann", NOW))


def test_cancel_of_an_interactive_run_ends_it_since_nobody_supervises_it(stage: Stage) -> None:
    stage.submit("mine", kind=RunKind.INTERACTIVE)
    found = stage.do(lambda c: life.request_cancel(c, "ws", "mine", "bob", NOW))
    assert (found.status, found.ended_at) == (RunStatus.CANCELED, NOW)
    with stage.database.read() as connection:
        signed = connection.execute(select(run_events.c.created_by).order_by(run_events.c.seq)).scalars().all()
    assert set(signed[1:]) == {"bob"}


def test_cancel_of_a_submitted_run_is_a_wish_that_the_loop_carries_out(stage: Stage) -> None:
    stage.submit()
    found = stage.do(lambda c: life.request_cancel(c, "ws", "run", "bob", NOW))
    assert (found.status, stage.row().cancel_requested) == (RunStatus.STARTING, True)


def test_attempt_that_has_moved_is_not_started_again(stage: Stage) -> None:
    stage.submit()
    stage.start()
    before = stage.row()
    assert stage.do(lambda c: life.start_again(c, before, "second", NOW))
    stage.report(STARTED, EXITED, STORED)
    assert not stage.do(lambda c: life.start_again(c, before, "third", NOW))
    with stage.database.read() as connection:
        assert identity.find_principal(connection, "third", NOW) is None


def test_tokens_that_expired_are_forgotten(stage: Stage) -> None:
    def count(connection: Connection) -> int:
        return len(connection.execute(select(tokens)).all())

    row = {"kind": "user", "name": "x", "role": "owner", "workspace": "", "created_by": "x", "created_at": 1}
    stage.do(lambda c: c.execute(insert(tokens).values(secret_digest="a", expires_at=NOW, **row)) and None)
    stage.do(lambda c: c.execute(insert(tokens).values(secret_digest="b", expires_at=NOW + 1, **row)) and None)
    stage.do(lambda c: identity.forget_expired(c, NOW))
    assert stage.do(count) == 1


def test_start_that_is_told_with_the_end_happened_when_the_runner_saw_it(stage: Stage) -> None:
    stage.submit()
    stage.start()
    seen = (replace(STARTED, at=50_000), replace(EXITED, at=50_300), replace(STORED, at=50_310))
    batch = ReportBatch(seen, sent_at=50_400)
    stage.do(lambda c: life.take_reports(c, "ws", "run", batch, NOW + 1_000))
    run = stage.run()
    assert (run.status, run.started_at, run.ended_at) == (RunStatus.COMPLETED, NOW + 600, NOW + 910)
    with stage.database.read() as connection:
        times = [event.at for event in runs.list_events(connection, "ws", "run", 0)]
    assert times[-3:] == [NOW + 600, NOW + 900, NOW + 910]


@pytest.mark.parametrize(("at", "sent_at"), [(0, 10**15), (10**15, 0), (None, 5), (5, None)])
def test_time_that_cannot_be_lies_between_the_last_event_and_now(stage: Stage, at: Any, sent_at: Any) -> None:
    stage.submit()
    stage.start()
    batch = ReportBatch((replace(STARTED, at=at),), sent_at)
    stage.do(lambda c: life.take_reports(c, "ws", "run", batch, NOW + 7))
    assert stage.run().started_at in (NOW, NOW + 7)


def test_rows_to_decide_about_are_those_that_move_and_the_first_that_wait(stage: Stage) -> None:
    for number in range(4):
        stage.submit(f"local_{number}")
        stage.submit(f"cheap_{number}", target="cheap")
    stage.submit("new")
    for number in range(4):
        for run_id in (f"local_{number}", f"cheap_{number}"):
            stage.do(partial(queue, run_id=run_id, lock="lock", reason="waits", now=NOW))
    stage.do(lambda c: assign(c, "local_0", "", "secret", NOW))
    stage.do(lambda c: runs.request_cancel(c, "ws", "cheap_3", "ann", NOW))
    with stage.database.read() as connection:
        places = [(None, "local", 2), ("ws", "cheap", 1), ("other", "cheap", 3)]
        found = [row.id for row in runs.next_rows(connection, places)]
        every = [row.id for row in runs.active_rows(connection)]
    assert found == ["local_0", "cheap_0", "local_1", "local_2", "cheap_3", "new"]
    assert [one for one in every if one in found] == found
    assert len(every) == 9


def test_first_that_wait_are_those_of_the_highest_priority(stage: Stage) -> None:
    for name, priority in (("low", -1), ("usual", 0), ("high", 2)):
        stage.submit(name, priority=priority)
        stage.do(partial(queue, run_id=name, lock="lock", reason="waits", now=NOW))
    with stage.database.read() as connection:
        found = [row.id for row in runs.next_rows(connection, [(None, "local", 2)])]
    assert sorted(found) == ["high", "usual"]


def test_silence_of_an_attempt_counts_from_its_own_start(stage: Stage) -> None:
    stage.submit(max_infrastructure_retries=1)
    stage.start()
    stage.report(STARTED)
    stage.do(lambda c: life.lose(c, "run", "run/1", "Gone.", NOW))
    assert stage.do(lambda c: assign(c, "run", "", "secret-2", NOW + 500))
    assert stage.row().heard_at == NOW + 500, "and not from what the first attempt said last"
    row = stage.row()
    assert stage.do(lambda c: life.start_again(c, row, "secret-3", NOW + 900))
    assert stage.row().heard_at == NOW + 900


def test_recorded_logs_of_an_attempt_that_is_over_are_called_so(stage: Stage) -> None:
    stage.submit(max_infrastructure_retries=2)
    for attempt in (1, 2, 3):
        stage.start() if attempt == 1 else stage.do(
            partial(assign, run_id="run", node_id="", secret=f"s{attempt}", now=NOW)
        )
        names = ["user_logs/std_log.txt", "azureml-logs/70_driver_log.txt", "outputs/model", "system_logs/node_1.txt"]
        names += ["user_logs/attempt_2/std_log.txt"] if attempt == 2 else []  # as a job may upload it
        found = [Artifact(name, str(attempt), 1) for name in names]
        stage.do(lambda c, found=found: runs.add_artifacts(c, stage.row(), found, "ann", NOW))
        stage.do(lambda c, attempt=attempt: life.lose(c, "run", f"run/{attempt}", "Gone.", NOW))
    with stage.database.read() as connection:
        recorded = {one.path: one.digest for one in runs.list_artifacts(connection, "run")}
    assert recorded == {
        "azureml-logs/70_driver_log.txt": "3",
        "outputs/model": "3",
        "system_logs/attempt_1/node_1.txt": "1",
        "system_logs/attempt_2/node_1.txt": "2",
        "system_logs/node_1.txt": "3",
        "user_logs/attempt_1/std_log.txt": "1",
        "user_logs/attempt_2/std_log.txt": "2",
        "user_logs/std_log.txt": "3",
    }
