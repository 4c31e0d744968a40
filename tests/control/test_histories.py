"""Random histories of a server: whatever users, runners, engines and machines do, and in whichever order, runs and
nodes stay what they are to each other.

That it can fail was seen by breaking the code, and playing eight histories each time. Without ``fleet.free_nodes`` all
eight failed, with two nodes at the most for a run six, with nodes beyond the maximum four, with more local runs than
places three, with GPUs of runs seen as free six, and two where an attempt that nobody sees counts as gone at once. One
fault that nobody knew of was found so, in one history of sixty: an attempt was given up for the silence of the one
before it.
"""

import random
import time
from pathlib import Path

import pytest

from runyard.db import runs
from runyard.protocol.runs import RunSpec
from tests.control.histories import BEGIN, World

STEPS = 200
#: How often each thing happens.
WEIGHTS = {
    "submit": 10, "cancel": 3, "act": 40, "kill": 3, "hide": 8, "retire": 2, "resize": 1, "disturb": 2, "restart": 2,
    "pass_time": 8, "tick": 25,
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5, None])
def test_whatever_happens_nodes_and_runs_stay_what_they_are(
    tmp_path: Path, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    print(f"The history of seed {seed}:")
    chance = random.Random(seed)
    # A server that began in the future would take nothing for silent before it starts again.
    monkeypatch.setattr(time, "time_ns", lambda: BEGIN * 1000)
    world = World(tmp_path, chance)
    monkeypatch.setattr(time, "time_ns", lambda: world.now * 1000)
    try:
        for step in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS):
            if step == "pass_time":
                world.pass_time(chance.choice([0.5, 1, 3, 10, 40]))
            else:
                getattr(world, step)()
            world.check()
        world.drain()
    finally:
        print("\n".join(world.log))
        world.close()


def test_run_that_has_just_become_ready_has_not_long_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes to the queue in the round that decides about it: others may pass it as they may pass any."""
    world = World(tmp_path, random.Random(0))
    world._has_races = False
    monkeypatch.setattr(time, "time_ns", lambda: world.now * 1000)
    try:
        for run_id, count in (("first", 2), ("large", 2), ("small", 1)):
            spec = RunSpec(run_id, "trial", script="train.py", target="cpu", node_count=count)
            world.write(lambda c, spec=spec: runs.create_run(c, spec, "ws", "ann", world.now))
        world.tick()
        found = {row.id: row for row in world.rows()}
    finally:
        world.close()
    assert [bool(found[run_id].key) for run_id in ("first", "small")] == [True, True], (
        "a node was free for the small one"
    )
    assert found["large"].reason == "Waits for 2 of the 3 nodes of 'cpu' to be free at once."
