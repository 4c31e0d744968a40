"""Replies and requests about bytes on their way to the server."""

from dataclasses import field
from typing import Dict, Tuple

from runyard.protocol.record import record


@record
class Offset:
    """How many bytes the server now holds."""

    offset: int


@record
class UploadSpec:
    """A content of more than one chunk that is to be sent in parts, each a chunk of ``CHUNK_BYTES``."""

    digest: str
    size_bytes: int
    #: SHA-256 of each chunk in hex; none until the server has asked for them.
    chunks: Tuple[str, ...] = ()
    #: May the parts be sent straight to where the contents lie?
    direct: bool = False


@record
class Upload:
    """An upload that was begun, or that goes on."""

    upload_id: str
    #: Numbers, from 1, of the parts that are there already.
    present: Tuple[int, ...] = ()
    #: Are there addresses for the parts (``sign_parts``)? Else they are sent to the server.
    is_direct: bool = False
    #: Nothing was begun: ask again, with the digests of the chunks.
    wants_chunks: bool = False


@record
class PartList:
    """Numbers of parts, from 1."""

    numbers: Tuple[int, ...]


@record
class SignedPart:
    """Where one part may be put, for a short time, without any other proof of who puts it."""

    number: int
    url: str
    #: Headers that belong to the address.
    headers: Dict[str, str] = field(default_factory=dict)


@record
class BlobAddress:
    """Where a content may be read for a short time without any other proof; '': at the server only."""

    url: str
    size_bytes: int


@record
class DigestList:
    """Digests of blobs."""

    digests: Tuple[str, ...]
