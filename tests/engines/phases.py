"""A run on two nodes that is led from phase to phase, so that something can be killed in each of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard.azureml.core import Dataset, Run
from runyard.azureml.core.compute import ComputeTarget
from runyard.azureml.core.runconfig import PyTorchConfiguration
from runyard.protocol.meeting import Phase
from runyard.protocol.runs import TERMINAL
from runyard.sdk.session import current_server
from tests.engines.engines import TARGET, Engine, wait_until
from tests.slow_data import SlowData

#: For ``make_engine``: nodes may fetch from the host of the tests.
VARIABLES = {"RUNYARD_ALLOW_PRIVATE_URLS": "1"}

#: Leaves more than the line lets pass while it is held up.
SCRIPT = """
import os, sys, time
folder, rank = sys.argv[1], os.environ["RANK"]
open(os.path.join(folder, "up-" + rank), "w").close()
while not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.05)
with open("outputs/of-" + rank, "wb") as file:
    file.write(os.urandom(4 << 20))
"""
PASSES_BYTES = 1 << 20


class PhasedRun:
    """Begins where one node waits for the other, which waits for its data."""

    def __init__(self, engine: Engine, folder: Path, target: str = TARGET) -> None:
        assert engine.line is not None
        self._engine, self._folder, self._target, self._line = engine, folder, target, engine.line
        folder.mkdir(exist_ok=True)
        self._data = SlowData(engine.ray.site.head if engine.ray else "127.0.0.1", free=1)
        self.run: Run = self._submit()
        wait_until(self._data.asked.is_set, "the second node asks for its data")
        wait_until(lambda: Phase.READY in self._phases(), "the first waits for it")

    def go_on(self) -> None:
        """The data come, the nodes meet, the scripts run."""
        self._data.may_answer.set()
        wait_until(lambda: all((self._folder / f"up-{rank}").exists() for rank in range(2)), "both scripts run")

    def finalize(self) -> None:
        """The scripts end, and their outputs get stuck on their way to the server."""
        self._line.hold(self._line.callers(), PASSES_BYTES)
        (self._folder / "go").touch()
        wait_until(lambda: self.run.get_status() == "Finalizing", "its outputs are being stored")

    def complete(self) -> None:
        """It ends once, in its first attempt, with all that it wrote, and leaves nothing."""
        assert self.run.get_status() == "Finalizing"
        self._line.release()
        self.run.wait_for_completion()
        names = {"workspace": self._engine.workspace.name, "run_id": self.run.id}
        ends = [one.status for one in current_server().call("list_events", **names) if one.status in TERMINAL]
        assert (ends, self.run.get_details()["attempt"]) == (["Completed"], 1)
        assert {"outputs/of-0", "outputs/of-1"} <= set(self.run.get_file_names())
        wait_until(lambda: self._engine.is_clean(self.run), "nothing is left of it")
        nodes = ComputeTarget(self._engine.workspace, self._target).list_nodes()
        assert self.run.id not in {node.get("runId") for node in nodes}

    def close(self) -> None:
        """Hold nothing up, whatever has failed."""
        self._line.release()
        self._data.close()

    def _submit(self) -> Run:
        data = Dataset.File.from_files(self._data.url, validate=False).as_named_input("data").as_download()
        pair = PyTorchConfiguration(process_count=2, node_count=2)
        settings = {"compute_target": self._target, "node_count": 2, "distribution": pair}
        return self._engine.submit(self._folder, SCRIPT, str(self._folder), data, **settings)

    def _phases(self) -> list[str]:
        """What the runners of its nodes wrote down."""
        found = self._engine.node_folder.glob(f"runs-*/{self.run.id}/1*/node.json")
        return [str(json.loads(path.read_bytes())["phase"]) for path in found]


@contextmanager
def phased_run(engine: Engine, folder: Path, target: str = TARGET) -> Iterator[PhasedRun]:
    """Such a run for a block."""
    phased = PhasedRun(engine, folder, target)
    try:
        yield phased
    finally:
        phased.close()
