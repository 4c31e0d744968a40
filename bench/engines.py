"""Runs on Slurm and Ray: from the demand to the script, beside the engine's own way to start a process."""

import tempfile
import time
from pathlib import Path

from bench.measure import medians, say

SCRIPT = "import os, sys, time\nopen(sys.argv[1], 'w').write(repr(time.time()))\n"
TRIES = 9
#: What Runyard may take longer than Ray itself from the demand to the task, seconds.
RAY_MORE_S = 0.5

#: A group of one bundle, an actor in it, its answer: what Ray needs for as much; prints how long that took.
ACTOR = """
import time, ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as In

@ray.remote(num_cpus=1)
class Actor:
    def now(self):
        return time.time()

ray.init(log_to_driver=False)
began = time.time()
group = placement_group([{"CPU": 1}])
actor = Actor.options(scheduling_strategy=In(group, 0)).remote()
print("took", ray.get(actor.now.remote()) - began, flush=True)
remove_placement_group(group)
"""


def main() -> None:
    """Print the figures."""
    from tests.engines.engines import make_engine

    for kind in ("slurm", "ray"):
        with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp") as folder, make_engine(kind, Path(folder)) as engine:
            out = Path(folder) / "out.txt"

            def start_s() -> float:
                began = time.time()
                engine.submit(Path(folder), SCRIPT, str(out)).wait_for_completion()  # noqa: B023 - called here
                return float(out.read_text()) - began  # noqa: B023

            def bare_s() -> float:
                return _actor_s(engine.ray) if engine.slurm is None else _srun_s(engine.slurm, out)  # noqa: B023

            start_s()
            ours, bare = medians([start_s, bare_s], TRIES)
            goal = bare + RAY_MORE_S if kind == "ray" else None
            peer = {"slurm": "srun", "ray": "a group and its actor"}[kind]
            say(f"demand -> script on a node of {kind}", ours, "{:.2f} s", goal, f"{peer} {bare:.2f} s")


def _srun_s(slurm: object, out: Path) -> float:
    began = time.time()
    slurm.run("srun", "-N1", "python3", "-c", SCRIPT, str(out))  # type: ignore[attr-defined]
    return float(out.read_text()) - began


def _actor_s(ray: object) -> float:
    said: str = ray.run(ACTOR)  # type: ignore[attr-defined]
    return next(float(line.split()[1]) for line in said.splitlines() if line.startswith("took"))
