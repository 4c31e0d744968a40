"""What a server tells of itself."""

from typing import Optional

from runyard.protocol.record import record


@record
class Ping:
    """The server answers; which versions it speaks."""

    name: str
    version: str
    api: int


@record
class StoreStatus:
    """Where the contents of snapshots, outputs, logs and models lie."""

    #: A folder, or an address such as s3://bucket/prefix.
    place: str
    #: One sentence while it cannot be used; '': it can.
    problem: str = ""


@record
class ServerInfo:
    """The server as its owner sees it."""

    version: str
    home: str
    pid: int
    url: str
    started_at: int
    active_runs: int
    store: Optional[StoreStatus] = None
    #: What keeps jobs apart from this server on its own host: an Isolation.
    isolation: str = ""
    #: One sentence where they are not kept apart although nobody asked for that; '': as it should be.
    isolation_problem: str = ""
