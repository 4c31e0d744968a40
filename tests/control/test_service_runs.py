"""How many runs a service's revisions get on a cluster, and which of them are to end."""

from types import SimpleNamespace
from typing import Any

import pytest

from runyard.control.service_plan import make_revision_elsewhere
from runyard.control.service_runs import PAUSES_S, Wish, decide, failure_of, waits_for
from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.runs import RunError
from runyard.protocol.services import Autoscale, Deployment, EntryScript, JoinedReplicas, ServiceSpec
from runyard.protocol.wire import dumps

SECOND = 1_000_000
NOW = 1_000 * SECOND
TWO = Deployment(replicas=2, target="there")


def run(name: str, status: str = "Running", **facts: Any) -> Any:
    """A run's row as the database has it, as far as it counts."""
    given = {"reason": "", "cancel_requested": False, "ready_at": None, "ended_at": None, "error": None, **facts}
    return SimpleNamespace(run_id=name, status=status, **given)


def joined(*names: str, wanted: int = 2, **facts: Any) -> JoinedReplicas:
    return JoinedReplicas(1, 1234, wanted, names, **facts)


def test_what_is_missing_is_started_and_a_run_that_waits_counts() -> None:
    assert decide(TWO, [], None, NOW) == Wish(2)
    assert decide(TWO, [run("a", "Starting")], None, NOW) == Wish(1)
    assert decide(TWO, [run("a", "Queued"), run("b")], joined("b"), NOW) == Wish()


def test_a_run_that_is_canceled_or_has_ended_does_not_count() -> None:
    assert decide(TWO, [run("a", cancel_requested=True), run("b")], None, NOW) == Wish(1)
    old = run("a", "Completed", ended_at=NOW - 900 * SECOND)
    assert decide(TWO, [old, run("b")], None, NOW) == Wish(1)


def test_a_run_is_told_how_many_threads_it_has() -> None:
    asked = ServiceSpec("digits", entry=EntryScript("score.py", "", EnvironmentSpec()), deployment=Deployment(cpu=2.5))
    told = make_revision_elsewhere(1, asked, (), "/revision", "/python", "sandbox", ())
    assert told.variables["OMP_NUM_THREADS"] == "3"


def test_autoscale_begins_with_its_least_and_follows_the_front() -> None:
    scaled = Deployment(target="there", autoscale=Autoscale(min_replicas=1, max_replicas=5))
    assert decide(scaled, [], None, NOW) == Wish(1)
    assert decide(scaled, [run("a")], joined("a", wanted=4), NOW) == Wish(3)


def test_of_too_many_those_go_that_are_not_connected_the_newest_first() -> None:
    rows = [run("a"), run("b", "Queued"), run("c", "Queued")]
    assert decide(TWO, rows, joined("a"), NOW) == Wish(0, ("c",))
    # The front lets the connected ones go, once they have answered.
    assert decide(TWO, [run("a"), run("b"), run("c")], joined("a", "b", "c"), NOW) == Wish()


def test_one_that_was_let_go_has_the_time_for_its_last_answer() -> None:
    rows = [run("a"), run("b")]
    assert decide(TWO, rows, joined("a", wanted=1, dismissed=("b",)), NOW) == Wish()
    assert decide(TWO, rows, joined("a", wanted=1), NOW) == Wish(0, ("b",))
    assert decide(None, rows, joined("a", is_leaving=True, dismissed=("b",)), NOW) == Wish()


def test_one_that_hangs_is_canceled_and_replaced() -> None:
    assert decide(TWO, [run("a"), run("b")], joined("a", hung=("b",)), NOW) == Wish(1, ("b",))


def test_revision_that_nobody_wants_loses_all_but_what_its_front_lets_go() -> None:
    rows = [run("a"), run("b", "Queued")]
    assert decide(None, rows, None, NOW) == Wish(0, ("a", "b"))
    assert decide(None, rows, joined("a", is_leaving=True), NOW) == Wish(0, ("b",))
    assert decide(TWO, rows, joined("a", is_leaving=True), NOW) == Wish(0, ("b",))
    assert decide(Deployment(), rows, None, NOW) == Wish(0, ("a", "b"))


def test_pauses_grow_with_deaths_in_a_row_and_end_with_one_that_has_lasted() -> None:
    def dead(number: int, lasted_s: float = 1.0) -> Any:
        at = NOW - (100 - number) * SECOND
        return run(str(number), "Failed", ready_at=at - int(lasted_s * SECOND), ended_at=at)

    one = Deployment(target="there")
    assert decide(one, [dead(100)], joined(), NOW).start == 2
    for count, pause_s in ((2, PAUSES_S[1]), (3, PAUSES_S[2])):
        rows = [dead(100 - number) for number in range(count)]
        assert decide(TWO, rows, joined(), NOW).start == 0
        assert decide(TWO, rows, joined(), NOW + int(pause_s * SECOND)).start == 2
    assert decide(TWO, [dead(98), dead(99), dead(100, 60.0)], joined(), NOW).start == 2


@pytest.mark.parametrize("code", ["UserError", "EnvironmentError", "DataError"])
def test_revision_fails_at_once_by_what_is_its_own_fault(code: str) -> None:
    error = dumps(RunError(code, "It is wrong.", "Traceback: here"))
    assert failure_of([run("a", "Failed", error=error)]).endswith("ended: It is wrong.\nTraceback: here")
    assert failure_of([run("a", "Failed", error=error, cancel_requested=True)]) == ""
    # One that has answered once is begun anew.
    assert failure_of([run("a", "Failed", error=error), run("b", ready_at=1)]) == ""


def test_revision_survives_the_loss_of_machines_and_not_of_many() -> None:
    lost = dumps(RunError("SystemError", "Its machine was lost."))
    rows = [run(str(number), "Failed", error=lost) for number in range(3)]
    assert failure_of(rows[:2]) == ""
    assert "Its machine was lost." in failure_of(rows)


def test_what_a_revision_waits_for_is_what_its_run_waits_for() -> None:
    rows = [run("a", "Failed"), run("b", "Queued", reason="Waits in Slurm's queue (Resources).")]
    assert waits_for("there", rows, None) == (
        "Its replica, the run b on 'there', is Queued: Waits in Slurm's queue (Resources)."
    )
    assert waits_for("there", rows, joined("b")) == "The model is being loaded on 'there' by the run b."
    assert "about to be submitted" in waits_for("there", [], None)
