"""What a server tells of itself."""

from runyard.protocol.record import record


@record
class Ping:
    """The server answers; which versions it speaks."""

    name: str
    version: str
    api: int


@record
class ServerInfo:
    """The server as its owner sees it."""

    version: str
    home: str
    pid: int
    url: str
    started_at: int
    active_runs: int
