"""Two nodes of one run whose clocks are an hour apart: what happened when is told by the server's clock alone."""

import shutil
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from runyard.azureml.core.runconfig import PyTorchConfiguration
from runyard.sdk.session import current_server
from tests.engines.engines import Engine, make_engine, wait_until

#: What gives a process another clock.
FAKED = glob("/usr/lib/*/faketime/libfaketime.so.1")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or not FAKED, reason="tests/system-packages.sh installs Slurm and faketime"
    ),
]

#: Longer than a runner may say nothing, seconds.
LONG_S = 33.0
#: Slurm asks it before each task of a node what variables that has more; the job's own script has no clock but ours.
PROLOG = """#!/bin/sh
[ "$SLURM_NODEID" = {node} ] && [ "$SLURM_STEP_ID" = 0 ] || exit 0
echo "export LD_PRELOAD={library}"
echo "export FAKETIME={skew}"
"""
#: Both ranks log to one metric in turns. A job has no variables of its node, whose clock it takes so.
TAKES_TURNS = """
import os, sys, time
if os.environ["RANK"] == sys.argv[2] and "FAKETIME" not in os.environ:
    clock = {"LD_PRELOAD": sys.argv[3], "FAKETIME": sys.argv[4]}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **clock})
from azureml.core import Run
folder, rank, run = sys.argv[1], int(os.environ["RANK"]), Run.get_context()
run.log("clock-%d" % rank, time.time())
for turn in range(4):
    while not os.path.exists(os.path.join(folder, "turn-%d" % turn)):
        time.sleep(0.05)
    if turn % 2 == rank:
        run.log("turns", turn)
        print("turn", turn, flush=True)
open("outputs/of-%d" % rank, "w").close()
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("slurm", tmp_path_factory.mktemp("skew")) as found:
        yield found


def skew_node(engine: Engine, node: int, skew: str) -> None:
    """Give what runs on that node of each run another clock."""
    assert engine.slurm is not None
    prolog = engine.slurm.folder / "prolog"
    prolog.write_text(PROLOG.format(node=node, library=FAKED[0], skew=skew))
    prolog.chmod(0o755)
    text = engine.slurm.conf.read_text()
    if "TaskProlog" not in text:
        engine.slurm.conf.write_text(f"TaskProlog={prolog}\n{text}")
        engine.slurm.run("scontrol", "reconfigure")


@pytest.mark.parametrize(("node", "skew", "hold_s"), [(1, "+1h", LONG_S), (0, "-1h", 0.0)])
def test_clocks_of_two_nodes_may_be_an_hour_apart(
    engine: Engine, tmp_path: Path, node: int, skew: str, hold_s: float
) -> None:
    """They meet, neither is taken for silent, what both log comes in its order, and the end is after the start."""
    skew_node(engine, node, skew)
    began = time.time()
    asked = PyTorchConfiguration(process_count=2, node_count=2)
    words = (str(tmp_path), str(node), FAKED[0], skew)
    run = engine.submit(tmp_path, TAKES_TURNS, *words, node_count=2, distribution=asked)
    wait_until(lambda: {"clock-0", "clock-1"} <= run.get_metrics().keys(), "both run", more=lambda: engine.why(run))
    maps = [Path(f"/proc/{engine.runner_pid(run, number)}/maps").read_text() for number in range(2)]
    assert ["libfaketime" in one for one in maps] == [number == node for number in range(2)]
    clocks = run.get_metrics()
    apart = (clocks[f"clock-{node}"] - clocks[f"clock-{1 - node}"]) / 3600
    assert apart == pytest.approx({"+": 1, "-": -1}[skew[0]], abs=0.05)
    time.sleep(hold_s)
    for turn in range(4):
        (tmp_path / f"turn-{turn}").touch()
        turns = list(range(turn + 1)) if turn else 0
        wait_until(lambda turns=turns: run.get_metrics().get("turns") == turns, f"turn {turn}", 20, run.get_metrics)
    run.wait_for_completion()
    record = run._refresh()
    assert began - 5 < record.created_at / 1e6 <= record.started_at / 1e6 <= record.ended_at / 1e6 < time.time() + 5
    assert record.ended_at / 1e6 - record.started_at / 1e6 >= hold_s
    events = current_server().call("list_events", workspace=engine.workspace.name, run_id=run.id)
    assert [one.at for one in events] == sorted(one.at for one in events)
    assert "NotResponding" not in {one.status for one in events}
    assert record.attempt == 1
    assert {"outputs/of-0", "outputs/of-1"} <= set(run.get_file_names())
    for rank, said in ((0, "turn 0\nturn 2\n"), (1, "turn 1\nturn 3\n")):
        run.download_file(f"user_logs/std_log_process_{rank}.txt", str(tmp_path / "log.txt"))
        assert (tmp_path / "log.txt").read_text() == said
