"""Replies and requests about bytes on their way to the server."""

from typing import Tuple

from runyard.protocol.record import record


@record
class Offset:
    """How many bytes the server now holds."""

    offset: int


@record
class Upload:
    """An upload that was begun."""

    upload_id: str


@record
class DigestList:
    """Digests of blobs."""

    digests: Tuple[str, ...]
