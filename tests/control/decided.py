"""A decision of one step about one run, as the loop has it written down."""

from sqlalchemy import Connection

from runyard.control import runs as life
from runyard.control.schedule import Decision


def queue(connection: Connection, run_id: str, lock: str, reason: str, now: int) -> None:
    """Its environment is ready; it waits for a node."""
    life.place(connection, Decision((), (), (), {run_id: reason}), {run_id: lock}, {run_id: reason}, {}, now)


def assign(connection: Connection, run_id: str, node_id: str, secret: str, now: int) -> bool:
    """It gets a node; False where it does not wait for one any more."""
    decision = Decision((), (), ((run_id, (node_id,) if node_id else ()),), {})
    return life.place(connection, decision, {}, {}, {run_id: secret}, now) == [run_id]
