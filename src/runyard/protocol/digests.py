"""Digests: the names of contents. Pure.

A blob of at most 8 MiB is ``sha256:<64 hex>``. A longer one is ``sha256-8m:<64 hex>``: the SHA-256 over the
concatenated 32-byte SHA-256 digests of its 8 MiB chunks, so that chunks can be hashed, sent and checked in parallel.
"""

import hashlib
import re
from typing import Iterable, List

from runyard.errors import UserErrorException

#: The size of a chunk, and of the largest blob that is hashed in one piece.
CHUNK_BYTES = 8 << 20

WHOLE, CHUNKED = "sha256", "sha256-8m"

_FORM = re.compile(r"(?:sha256|sha256-8m):[0-9a-f]{64}")


def digest_bytes(data: bytes) -> str:
    """The digest of a content that is in memory."""
    if len(data) <= CHUNK_BYTES:
        return f"{WHOLE}:{hashlib.sha256(data).hexdigest()}"
    view = memoryview(data)
    starts = range(0, len(data), CHUNK_BYTES)
    return combine(hashlib.sha256(view[start : start + CHUNK_BYTES]).digest() for start in starts)


def combine(chunk_digests: Iterable[bytes]) -> str:
    """The digest of a content of more than one chunk, from the raw digests of its chunks."""
    return "{}:{}".format(CHUNKED, hashlib.sha256(b"".join(chunk_digests)).hexdigest())


class Hasher:
    """The digest of a stream."""

    def __init__(self) -> None:
        self._chunks: List[bytes] = []
        self._chunk = hashlib.sha256()
        self._chunk_bytes = 0
        #: How many bytes were seen.
        self.size_bytes = 0

    def update(self, data: bytes) -> None:
        """The next bytes."""
        view = memoryview(data)
        self.size_bytes += len(view)
        while len(view):
            if self._chunk_bytes == CHUNK_BYTES:
                self._chunks.append(self._chunk.digest())
                self._chunk, self._chunk_bytes = hashlib.sha256(), 0
            piece = view[: CHUNK_BYTES - self._chunk_bytes]
            self._chunk.update(piece)
            self._chunk_bytes += len(piece)
            view = view[len(piece) :]

    def digest(self) -> str:
        """The digest of all bytes so far."""
        if not self._chunks:
            return f"{WHOLE}:{self._chunk.hexdigest()}"
        return combine([*self._chunks, self._chunk.digest()])


def check_digest(text: str) -> str:
    """``text`` if it is a digest in exactly one of the two forms; UserErrorException otherwise."""
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        raise UserErrorException(f"{str(text)[:80]!r} is not a digest.")
    return text
