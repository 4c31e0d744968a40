"""Fills the small disk of a database, frees it again, and checks what was kept; run in a mount namespace of its own."""

import subprocess
import sys
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from runyard.db.engine import Database
from runyard.db.tables import run_events
from runyard.errors import StorageFullError


def main(folder: Path) -> None:
    """Everything acknowledged is there, nothing else is, and writing goes on once there is space."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(600_000))
    database = Database(folder / "runyard.db")

    def add(connection: Connection) -> None:
        values = {"at": 1, "status": "x" * 20_000, "workspace": "ws", "created_by": "test", "created_at": 1}
        connection.execute(insert(run_events).values(run_id="run", **values))

    kept = refused = 0
    while refused < 5:
        try:
            database.write(add)
            kept += 1
        except StorageFullError:
            refused += 1
        assert kept < 1_000, "the disk never got full"
    ballast.unlink()
    for _ in range(3):
        database.write(add)
    with database.read() as connection:
        found = connection.execute(select(func.count()).select_from(run_events)).scalar()
    assert found == kept + 3, (found, kept)
    database.close()
    Database(folder / "runyard.db").close()
    print("survived")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
