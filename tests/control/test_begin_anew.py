"""Attempts that were lost before anything of them began: their runs begin anew, and a late runner begins nothing."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runyard.control import runs as life
from runyard.db import meetings, runs
from runyard.environments.kit import make_kit
from runyard.errors import ConflictError
from runyard.protocol.distributed import Distribution, DistributionKind
from runyard.protocol.environments import Builder, Lock
from runyard.protocol.meeting import NodeReport, Phase
from runyard.protocol.plan import LaunchPlan, RemoteLaunch, Report, ReportBatch, ReportKind
from runyard.protocol.runs import RunSpec, RunStatus
from runyard.protocol.wire import dumps
from tests.control.decided import assign, queue
from tests.control.histories import BEGIN, World
from tests.server.application import Application, listening, now_us

SECRET = "ryr-of-the-run"
#: Carries out a node's part of an attempt, as compute/bootstrap.py does once it has the runner.
NODE = "import sys; from runyard.runner.supervise import main; sys.exit(main(sys.argv[1], sys.argv[2]))"
#: Longer than any runner elsewhere may take to say its first word, seconds.
LONG_S = 31


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(time, "time_ns", lambda: BEGIN * 1000)
    found = World(tmp_path, random.Random(0))
    found._has_races = False
    monkeypatch.setattr(time, "time_ns", lambda: found.now * 1000)
    yield found
    found.close()


def submit(world: World, target: str, **spec: Any) -> None:
    asked = RunSpec("run", "trial", script="train.py", target=target, max_infrastructure_retries=0, **spec)
    world.write(lambda c: runs.create_run(c, asked, "ws", "ann", world.now))
    world.tick()


def row_of(world: World) -> Any:
    return world.rows()[0]


def lose(world: World) -> None:
    """The engine sees the run's attempt no more, and time passes."""
    attempt = world.far.attempts[row_of(world).key]
    attempt.is_lost = attempt.is_silent = attempt.was_unseen = True
    world.pass_time(LONG_S)
    world.tick()


def test_run_begins_anew_twice_whatever_its_target(world: World) -> None:
    """No retry that it may have is spent for that; the third time it is lost as ever."""
    submit(world, "ray")
    for number in (2, 3):
        lose(world)
        row = row_of(world)
        assert (row.status, row.attempt, row.retries) == (RunStatus.QUEUED, number, 0)
        world.tick()
        assert row_of(world).key == f"run/{number}"
    for _ in range(3):
        if not row_of(world).ended_at:
            lose(world)
    assert (row_of(world).status, row_of(world).attempt) == (RunStatus.FAILED, 3)


def test_run_of_which_a_word_was_heard_is_not_begun_anew(world: World) -> None:
    submit(world, "ray")
    attempt = world.far.attempts["run/1"]
    attempt.say(ReportKind.PREPARING, message="Its runner has begun.")
    world.send(attempt)
    for _ in range(2):
        lose(world)
    assert (row_of(world).attempt, row_of(world).status) == (1, RunStatus.QUEUED)


def test_run_that_its_engine_forgets_while_it_prepares_holds_no_other_up(world: World) -> None:
    """The round looked for a column that the rows of the loop did not have, and ended there."""
    submit(world, "ray")
    attempt = world.far.attempts["run/1"]
    attempt.say(ReportKind.PREPARING, message="Its runner has begun.")
    world.send(attempt)
    del world.far.attempts["run/1"]
    world.tick()
    assert (row_of(world).attempt, row_of(world).status) == (1, RunStatus.QUEUED)


@pytest.mark.parametrize("is_heard", [True, False])
def test_run_of_two_nodes_is_over_once_one_of_them_is_lost_for_long(world: World, is_heard: bool) -> None:
    """The first one is heard of all the time: the run went on for ever without the other."""
    submit(world, "ray", node_count=2)
    attempt = world.far.attempts["run/1"]
    for _ in range(2):
        world._proceed(attempt)
        world.send(attempt)
    attempt.is_lost = attempt.was_unseen = True
    for _ in range(10):
        assert row_of(world).status == RunStatus.RUNNING
        world.pass_time(10, is_up=False)
        world.write(lambda c: life.take_reports(c, "ws", "run", ReportBatch((), attempt=1), world.now))
        if is_heard:
            world.loop.hear("run", NodeReport(1, 1, 1), world.now)
        world.tick()
        if row_of(world).ended_at:
            break
    assert (row_of(world).status == RunStatus.FAILED) == (not is_heard)


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    found = Application(tmp_path / "home")
    yield found
    found.close()


def hand_over(application: Application, **spec: Any) -> None:
    """Bring a run to the point where its nodes get it."""
    application.add_workspace("ws")
    application.add_run("ws", "run", **spec)
    write = application.parts.database.write
    write(lambda c: life.prepare(c, "run", "It is being built.", now_us()))
    write(lambda c: queue(c, "run", "lock", "waits", now_us()))
    assert write(lambda c: assign(c, "run", "", SECRET, now_us()))


@pytest.mark.parametrize("is_late", [False, True])
def test_late_runner_begins_nothing(tmp_path: Path, is_late: bool) -> None:
    """One that its engine had lost, and that comes after all: the server is asked before anything begins."""
    ran = tmp_path / "ran"
    with listening(tmp_path / "home") as (application, url):
        hand_over(application)
        kit = make_kit(str(tmp_path / "kits")).version_digest
        plan = LaunchPlan(
            run_id="run", workspace="ws", experiment="trial", attempt=1, kit=kit, script=None,
            lock=Lock("lock", Builder.USER_MANAGED, interpreter_path=sys.executable),
            command=("touch", str(ran)), arguments=(),
        )  # fmt: skip
        begin_anew = partial(life.begin_anew, run_id="run", key="run/1", now=now_us())
        if is_late:
            assert application.parts.database.write(begin_anew)
        message = dumps(RemoteLaunch(url, SECRET, "", plan))
        done = subprocess.run(
            [sys.executable, "-c", NODE, str(tmp_path / "node"), message], timeout=60, capture_output=True, text=True
        )
        assert (done.returncode, ran.exists()) == (0, not is_late), done.stderr
        assert not application.parts.database.write(begin_anew), "it is over, or another one is in its place"


def test_start_that_is_tried_again_ends_the_token_of_the_first(application: Application) -> None:
    """An engine may have forgotten what it began: two runners of one attempt would write one record."""
    hand_over(application)
    write = application.parts.database.write
    with application.parts.database.read() as connection:
        row = runs.find_row(connection, "run")
    assert write(lambda c: life.start_again(c, row, "ryr-of-the-second", now_us()))
    body = ReportBatch((Report(1, 1, ReportKind.PREPARING, "Its runner has begun."),), now_us(), 1)
    for secret, status in ((SECRET, 401), ("ryr-of-the-second", 200)):
        reply = application.ask("report", dumps(body).encode(), secret, workspace="ws", run_id="run")
        assert reply.status == status, reply.body


def test_word_of_any_node_tells_that_it_may_have_begun(application: Application) -> None:
    write = application.parts.database.write
    begin_anew = partial(life.begin_anew, run_id="run", now=now_us())
    hand_over(application, node_count=2)
    assert write(partial(begin_anew, key="run/1"))
    with pytest.raises(ConflictError):
        write(lambda c: meetings.meet(c, "ws", "run", NodeReport(1, 1, 1), now_us()))
    assert write(lambda c: assign(c, "run", "", "another", now_us()))
    write(lambda c: meetings.meet(c, "ws", "run", NodeReport(2, 1, 1), now_us()))
    assert not write(partial(begin_anew, key="run/2"))


def test_distributed_run_has_begun_once_all_of_its_nodes_are_ready(application: Application) -> None:
    """None of them starts a process before; what they say of their preparation is nothing begun."""
    write = application.parts.database.write
    begin_anew = partial(life.begin_anew, run_id="run", now=now_us())

    def meet(attempt: int, node: int, phase: str) -> None:
        write(lambda c: meetings.meet(c, "ws", "run", NodeReport(attempt, node, 2, phase), now_us()))

    hand_over(application, node_count=2, distribution=Distribution(DistributionKind.PYTORCH, process_count=2))
    word = Report(1, 1, ReportKind.PREPARING, "Its runner has begun.")
    write(lambda c: life.take_reports(c, "ws", "run", ReportBatch((word,), attempt=1), now_us()))
    meet(1, 0, Phase.READY)
    meet(1, 1, Phase.PREPARING)
    assert write(partial(begin_anew, key="run/1"))
    with pytest.raises(ConflictError):
        meet(1, 1, Phase.READY)
    assert write(lambda c: assign(c, "run", "", "another", now_us()))
    for node in (1, 0):
        meet(2, node, Phase.READY)
    assert not write(partial(begin_anew, key="run/2"))
