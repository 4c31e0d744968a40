"""Random histories of a server: whatever users, runners, engines and machines do, and in whichever order, runs and
nodes stay what they are to each other.

That it can fail was seen by breaking the code: without ``fleet.free_nodes``, with one node fewer than a run asks for,
with ``take_reports`` moving a run that has ended, with ``lose`` of whichever attempt, and without the time that an
attempt has to end itself, each time all histories but one or two failed.
"""

import random
import time
from pathlib import Path

import pytest

from tests.control.histories import World

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
