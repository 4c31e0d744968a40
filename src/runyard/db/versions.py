"""The numbers of versions: from 1, without gaps, none given twice."""

from typing import Any

from sqlalchemy import Connection, func, select


def next_version(connection: Connection, table: Any, workspace: str, name: str) -> int:
    """The number of the next version of ``name``; rows that were deleted or taken off the list still count."""
    highest = select(func.max(table.c.version)).where(table.c.workspace == workspace, table.c.name == name)
    return (connection.execute(highest).scalar() or 0) + 1
