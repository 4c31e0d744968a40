"""Where ``run.log`` writes: the job's spool, which its runner empties; elsewhere a spool that a thread empties."""

import os
import shutil
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Dict

from runyard.client.spool import SpoolWriter, read_mark
from runyard.errors import UserErrorException

if TYPE_CHECKING:
    from runyard.sdk.run import Run

#: Between two deliveries from a process that is not a job, seconds.
DELIVERY_S = 0.5

_job_writers: Dict[str, "JobWriter"] = {}


def open_writer(run: "Run") -> Any:
    """The writer for that run in this process: one for all Run objects of a job, so that its names are told once."""
    folder = os.environ.get("RUNYARD_SPOOL")
    if folder and os.environ.get("AZUREML_RUN_ID") == run.id:
        if folder not in _job_writers:
            _job_writers[folder] = JobWriter(folder)
        return _job_writers[folder]
    return DeliveredWriter(run)


class JobWriter(SpoolWriter):
    """Writes to the job's spool folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._marks = folder

    def is_stored(self) -> bool:
        """Has the server taken all that was written? The runner leaves its mark beside each spool."""
        return all(read_mark(self._marks, writer) >= size for writer, size in self.sizes().items())


class DeliveredWriter:
    """Writes to a spool of its own, and delivers it from a thread while this process lives."""

    def __init__(self, run: "Run") -> None:
        # Loaded here: a job's metrics are sent by its runner.
        from runyard.client.shipper import MetricsShipper
        from runyard.sdk import observer

        self._folder = tempfile.mkdtemp(prefix="runyard-metrics-")
        self._spool = SpoolWriter(self._folder)
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._shipper = MetricsShipper(self._folder, 1, lambda body: run._call("add_metrics", body).sequence)
        self.log = self._spool.log
        observer.observe_folder(run.experiment.workspace.name, run.id, self._folder)
        threading.Thread(target=self._deliver_often, name="runyard-metrics", daemon=True).start()

    def flush(self) -> None:
        """Deliver now; UserErrorException, once, where the server refuses what was logged."""
        self._deliver()
        if self._shipper.refused:
            raise UserErrorException(self._shipper.refused.popitem()[1])

    def is_stored(self) -> bool:
        """Has the server taken all that was written?"""
        self._deliver()
        return all(self._shipper.shipped_bytes(writer) >= size for writer, size in self._spool.sizes().items())

    def close(self) -> None:
        """Deliver, and end."""
        from runyard.sdk import observer

        self._deliver()
        self._ended.set()
        self._spool.close()
        observer.forget(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _deliver(self) -> None:
        with self._guard:
            self._shipper.ship()

    def _deliver_often(self) -> None:
        while not self._ended.wait(DELIVERY_S):
            try:
                self._deliver()
            except Exception:  # noqa: BLE001 - the next delivery tries again, and flush() raises what is wrong
                continue
