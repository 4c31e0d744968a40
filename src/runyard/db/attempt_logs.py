"""The logs of a run's earlier attempts in its record."""

from sqlalchemy import Connection, delete, update

from runyard.db.runs import list_artifacts
from runyard.db.tables import artifacts
from runyard.protocol.attempt_logs import OWN_LOGS, log_of_attempt
from runyard.protocol.trees import PATH_MAX

#: The second name of the script's log; the last attempt's alone has one.
DRIVER_LOG = "azureml-logs/70_driver_log.txt"


def set_aside(connection: Connection, run_id: str, attempt: int) -> None:
    """Call the logs that are recorded as what they are: those of an attempt that is over."""
    recorded = list_artifacts(connection, run_id)
    taken = {one.path for one in recorded}
    for one in recorded:
        this = (artifacts.c.run_id == run_id) & (artifacts.c.path == one.path)
        name = log_of_attempt(one.path, attempt)
        # A job may have recorded anything under any name, and holds no next attempt up by that.
        if one.path.startswith(OWN_LOGS) and name not in taken and len(name) <= PATH_MAX:
            connection.execute(update(artifacts).where(this).values(path=name))
        elif one.path == DRIVER_LOG:
            connection.execute(delete(artifacts).where(this))
