"""Removes the files of revisions that no service goes back to: each has a copy of its model."""

from typing import Any, Dict, Optional, Sequence, Set, Tuple

from sqlalchemy import Row

from runyard.compute.service_host import ServiceHost
from runyard.db import services
from runyard.db.engine import Database
from runyard.protocol.runs import TERMINAL
from runyard.protocol.services import Seen

#: So long after the next one answers, and its last requests have had their time, a revision's files go, seconds.
KEPT_S = 15.0


class OldRevisions:
    """Those of all services. The revisions themselves stay known: a rollback prepares one anew."""

    def __init__(self, database: Database, host: ServiceHost) -> None:
        self._database, self._host = database, host
        #: Of each service the revision that answers, and when the others may go; None: they are gone.
        self._due: Dict[str, Tuple[int, Optional[float]]] = {}

    def tidy(self, row: Row[Any], replicas: Sequence[Row[Any]], seen: Seen, now: float) -> None:
        """Remove what is due by ``now``, seconds of a clock that only goes forward."""
        if not seen.revision == row.revision == row.good_revision:
            self._due.pop(row.id, None)
            return
        number, due = self._due.get(row.id, (0, None))
        if number != row.revision:
            due = now + KEPT_S + self._patience_s(row)
            self._due[row.id] = (row.revision, due)
        if due is None or now < due:
            return
        kept = self._kept(row, replicas, seen)
        for one in self._host.revision_numbers(row.id) - kept:
            self._host.remove_revision(row.id, one)
        # Runs of a cluster that end later keep theirs until the next look.
        is_over = kept <= self._kept(row, (), None)
        self._due[row.id] = (row.revision, None if is_over else now + KEPT_S)

    def forget(self, service_id: str) -> None:
        """It was deleted."""
        self._due.pop(service_id, None)

    def _patience_s(self, row: Row[Any]) -> float:
        """How long a request to one of those that are there may work."""
        there = self._host.revision_numbers(row.id)
        with self._database.read() as connection:
            known = services.list_revisions(connection, row.id)
        return max((one.spec.deployment.timeout_s for one in known if one.number in there), default=0.0)

    def _kept(self, row: Row[Any], replicas: Sequence[Row[Any]], seen: Optional[Seen]) -> Set[int]:
        """The one that answers, the one before it that did, and those that runs of a cluster have."""
        with self._database.read() as connection:
            known = services.list_revisions(connection, row.id)
        before = [one.number for one in known if one.answered_at is not None and one.number < row.revision]
        elsewhere = {one.revision for one in seen.elsewhere} if seen is not None else set()
        runs = {one.revision for one in replicas if one.status not in TERMINAL}
        return {row.revision, *before[:1], *elsewhere, *runs}
