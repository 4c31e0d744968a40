"""kill -9 of the server at each step of a run: the run goes on, and ends with every line and value exactly once."""

from collections.abc import Iterator

import pytest

from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, PythonSpec
from runyard.protocol.runs import InputMode, InputSpec, RunStatus
from tests.faults.house import WORKSPACE, House, wait_until
from tests.slow_data import SlowData

pytestmark = pytest.mark.e2e

LINES = 200
#: Logs half of its lines and values, says so, waits, logs the rest, and leaves an output.
IN_HALVES = f"""
for i in range({LINES}):
    if i == {LINES // 2}:
        tell("half")
        await_file("go on")
    print("line", i, flush=True)
    run.log("loss", float(i))
os.makedirs("outputs", exist_ok=True)
with open("outputs/model.bin", "wb") as file:
    file.write(b"weights")
"""


def _assert_whole(house: House, run_id: str, said: tuple[str, ...] = ()) -> None:
    """The run is complete, and nothing of it is lost; ``said`` are our own lines before those of the script."""
    run = house.wait(run_id)
    assert (run.status, run.error, run.attempt) == (RunStatus.COMPLETED, None, 1)
    assert house.log(run_id).splitlines() == [*said, *(f"line {i}" for i in range(LINES))]
    assert house.metric(run_id, "loss") == [float(i) for i in range(LINES)]
    names = {"workspace": WORKSPACE, "run_id": run_id}
    assert house.server.call("read_artifact", path="outputs/model.bin", **names) == b"weights"
    wait_until(lambda: not house.runner_pids() and not house.script_pids(), "nothing of the run is left")


def test_running_run_survives_the_death_of_its_server(house: House) -> None:
    run_id = house.submit(IN_HALVES)
    house.hear("half")
    house.wait(run_id, RunStatus.RUNNING)
    house.kill_server()
    house.tell("go on")
    house.start()
    _assert_whole(house, run_id)
    assert house.steps(run_id)[-3:] == ["Running", "Finalizing", "Completed"]


def test_run_that_ends_while_no_server_runs_is_completed_by_the_next_one(house: House) -> None:
    run_id = house.submit(IN_HALVES)
    house.hear("half")
    house.wait(run_id, RunStatus.RUNNING)
    house.kill_server()
    house.tell("go on")
    wait_until(lambda: not house.script_pids(), "the script ends without a server")
    assert house.stored_status(run_id) == RunStatus.RUNNING
    house.start()
    _assert_whole(house, run_id)


def test_server_that_is_stopped_while_a_script_logs_loses_nothing(house: House) -> None:
    run_id = house.submit(IN_HALVES)
    house.hear("half")
    house.stop_server()
    house.tell("go on")
    house.start()
    _assert_whole(house, run_id)


def test_queued_runs_survive_the_death_of_their_server(house: House) -> None:
    blockers = [house.submit("await_file('go on')") for _ in range(2)]
    for blocker in blockers:
        house.wait(blocker, RunStatus.RUNNING)
    waiting = [house.submit(IN_HALVES) for _ in range(2)]
    for run_id in waiting:
        wait_until(lambda: "places" in (house.run(run_id).reason or ""), "it says what it waits for")  # noqa: B023
    house.kill_server()
    house.tell("go on")
    house.start()
    for run_id in waiting:
        _assert_whole(house, run_id)
    for blocker in blockers:
        assert house.wait(blocker).status == RunStatus.COMPLETED


def test_run_whose_environment_is_being_built_survives_the_death_of_its_server(house: House) -> None:
    house.tell("go on")
    run_id = house.submit(IN_HALVES, environment=_bare_environment())
    house.wait(run_id, RunStatus.PREPARING)
    house.kill_server()
    assert house.stored_status(run_id) == RunStatus.PREPARING
    house.start()
    _assert_whole(house, run_id)
    assert house.steps(run_id) == ["Starting", "Preparing", "Queued", "Running", "Finalizing", "Completed"]


def test_run_whose_data_are_being_fetched_survives_the_death_of_its_server(house: House, slow_data: SlowData) -> None:
    spec = DatasetSpec((Source(url=slow_data.url),))
    dataset = house.server.call("save_dataset", spec, workspace=WORKSPACE)
    house.tell("go on")
    run_id = house.submit(IN_HALVES, inputs=(InputSpec("data", InputMode.DOWNLOAD, dataset.id),))
    wait_until(slow_data.asked.is_set, "the runner asks for the data")
    house.kill_server()
    assert house.stored_status(run_id) == RunStatus.QUEUED
    house.start()
    slow_data.may_answer.set()
    _assert_whole(house, run_id, ("Runyard: Input 'data': 1 file, 4 bytes, downloaded.",))


def test_finalizing_run_survives_the_death_of_its_server(house: House) -> None:
    house.tell("go on")
    large = "\nwith open('outputs/large.bin', 'wb') as file:\n    file.truncate(1 << 30)\n"
    run_id = house.submit(IN_HALVES + large)
    house.wait(run_id, RunStatus.FINALIZING)
    house.kill_server()
    assert house.stored_status(run_id) == RunStatus.FINALIZING
    house.start()
    _assert_whole(house, run_id)
    listed = house.server.call("list_artifacts", workspace=WORKSPACE, run_id=run_id)
    assert {one.path: one.size_bytes for one in listed}["outputs/large.bin"] == 1 << 30


def test_run_is_cancelled_although_the_server_died_after_the_wish(house: House) -> None:
    run_id = house.submit("tell('started')\nawait_file('never')")
    house.hear("started")
    house.wait(run_id, RunStatus.RUNNING)
    house.server.call("cancel_run", workspace=WORKSPACE, run_id=run_id)
    house.kill_server()
    house.start()
    assert house.wait(run_id).status == RunStatus.CANCELED
    wait_until(lambda: not house.script_pids(), "its script is gone")


def test_server_killed_again_and_again_loses_nothing(house: House) -> None:
    run_id = house.submit(IN_HALVES)
    house.hear("half")
    for _ in range(3):
        house.kill_server()
        house.start()
    house.tell("go on")
    _assert_whole(house, run_id)


def test_home_object_finds_the_restarted_server(house: House) -> None:
    before = house.server
    house.kill_server()
    house.start()
    assert before.call("ping").name == "runyard"


def _bare_environment() -> EnvironmentSpec:
    import sys

    python = "python={}.{}".format(*sys.version_info[:2])
    return EnvironmentSpec(name="bare", python=PythonSpec(conda=CondaSpec(packages=(python,))))


@pytest.fixture
def slow_data() -> Iterator[SlowData]:
    found = SlowData()
    yield found
    found.close()
