"""One request as its handler sees it: who asks, what for, and the parts of the server to answer with."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

from runyard.errors import UserErrorException
from runyard.protocol.identity import Principal
from runyard.protocol.record import record
from runyard.protocol.routes import Route

if TYPE_CHECKING:
    from runyard.server.app import Parts


@record
class Call:
    """A request that is authenticated, allowed and decoded."""

    route: Route
    principal: Optional[Principal]
    path: Mapping[str, str]
    query: Mapping[str, str]
    #: The decoded body, or for a raw route its bytes or the path of the file that holds them.
    body: Any
    parts: "Parts"
    #: The header of that name.
    authorization: str = ""

    @property
    def workspace(self) -> str:
        """The workspace in the address."""
        return self.path["workspace"]

    @property
    def user(self) -> str:
        """Who asks, for the record."""
        return self.principal.name if self.principal else "anyone"

    @property
    def now(self) -> int:
        """The server's time, UTC microseconds."""
        return time.time_ns() // 1000

    def integer(self, name: str, default: int, least: int = 0, most: int = 2**62) -> int:
        """A whole number of the query within its bounds."""
        text = self.query.get(name)
        if text is None or text == "":
            return default
        try:
            value = int(text)
        except ValueError:
            raise UserErrorException(f"{name} is a whole number, not {text[:40]!r}.") from None
        if not least <= value <= most:
            raise UserErrorException(f"{name} is from {least} to {most}, not {value}.")
        return value


@record
class Content:
    """A raw reply: bytes, or a file to be streamed."""

    data: bytes = b""
    #: An opened binary file of ``size_bytes``; closed after it was sent.
    file: Any = None
    #: Or its bytes as they come, an asynchronous iterator of ``size_bytes`` in all.
    pieces: Any = None
    size_bytes: int = 0
    headers: Optional[Dict[str, str]] = None
    media_type: str = "application/octet-stream"


@record
class Upload:
    """A large body, kept in a temporary file."""

    path: Path
    size_bytes: int
