"""Once an hour: what ended runs, broken-off builds and transfers left behind is removed; nothing that is recorded."""

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Optional

from sqlalchemy import Connection, Row

from runyard.compute.base import Compute
from runyard.control.late_logs import keep_log
from runyard.db import identity, runs
from runyard.db.engine import Database
from runyard.environments.realise import reap_unfinished
from runyard.errors import RunyardError
from runyard.files.layout import FOLDER_NAME_KEPT, folder_name
from runyard.protocol.runs import TERMINAL
from runyard.storage.base import ArtifactStore

#: Between two sweeps, and from the server's start to the first, seconds.
EVERY_S, FIRST_S = 3_600.0, 60.0
#: How long a log lies beside its stored copy after its run's end, for those who still follow it, seconds.
LOG_KEPT_S = 3_600
#: How long a file that is being made or sent may stand still before it counts as given up, seconds.
UNFINISHED_KEPT_S = 86_400
#: How long the folder of an attempt stays whose record could not be completed: its outputs may be wanted, seconds.
ATTEMPT_KEPT_S = 7 * 86_400

_log = logging.getLogger("runyard.sweep")


class Sweeper(threading.Thread):
    """Sweeps one home while its server runs."""

    def __init__(self, database: Database, compute: Compute, home: Path, store: Optional[ArtifactStore] = None) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._database = database
        self._compute = compute
        self._home = home
        self._store = store
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the present sweep, which is not waited for."""
        self._stopping.set()

    def run(self) -> None:
        pause_s = FIRST_S
        while not self._stopping.wait(pause_s):
            pause_s = EVERY_S
            try:
                self.sweep(time.time())
            except Exception:  # noqa: BLE001 - what one sweep leaves, the next one finds
                _log.exception("a sweep broke off; the next one comes in an hour")

    def sweep(self, now: float) -> None:
        """Remove what is left over at ``now``, seconds since 1970."""
        self._database.write_bulk(lambda connection: identity.forget_expired(connection, int(now * 1e6)))
        with self._database.read() as connection:
            active = [row.key for row in runs.active_rows(connection) if row.key is not None]
        self._compute.tidy(active, now - ATTEMPT_KEPT_S)
        for folder in self._folders("logs"):
            self._sweep_logs(folder, now)
        for place in ("tmp", "store/tmp", "store/uploads", "cache/kits/.making-*"):
            for path in self._home.glob(place if "*" in place else place + "/*"):
                _remove_older(path, now - UNFINISHED_KEPT_S)
        reap_unfinished(str(self._home / "cache"))
        if self._store is not None:
            self._store.tidy(now)

    def _folders(self, name: str) -> list[Path]:
        return [path for path in (self._home / name).iterdir() if path.is_dir()]

    def _sweep_logs(self, folder: Path, now: float) -> None:
        """The logs of a run that ended go once its record holds them; what it lacks of them comes there first."""
        with self._database.read() as connection:
            row = _find_row(connection, folder.name)
            if row is None or row.status not in TERMINAL or row.ended_at > (now - LOG_KEPT_S) * 1e6:
                return
            stored = {one.path for one in runs.list_logs(connection, row.id)}
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                _remove_empty(path)
            elif path.relative_to(folder).as_posix() in stored or self._keep_log(row, folder, path, now):
                path.unlink(missing_ok=True)
        _remove_empty(folder)

    def _keep_log(self, row: Row[Any], folder: Path, path: Path, now: float) -> bool:
        """Is that log in the run's record from now on?"""
        try:
            return self._store is not None and keep_log(self._database, self._store, row, folder, path, int(now * 1e6))
        except (RunyardError, OSError) as error:
            _log.warning("the log %s stays where it is until the next sweep: %s", path, error)
            return False


def _find_row(connection: Connection, folder: str) -> Optional[Row[Any]]:
    """The run whose folder has that name, which is its id, or for a long one begins as its id does."""
    row = runs.find_row(connection, folder)
    if row is not None or len(folder) <= FOLDER_NAME_KEPT:
        return row
    known = runs.ids_beginning(connection, folder[:FOLDER_NAME_KEPT])
    found = next((one for one in known if folder_name(one) == folder), None)
    return None if found is None else runs.find_row(connection, found)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def _remove_older(path: Path, before: float) -> None:
    try:
        if path.lstat().st_mtime < before:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    except OSError:
        pass
