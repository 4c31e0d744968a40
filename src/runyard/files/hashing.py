"""The digest of a file on disk, read piece by piece. Standard library."""

from typing import Tuple

from runyard.protocol.digests import Hasher

#: Read size, bytes.
PIECE_BYTES = 1 << 20


def hash_file(path: str) -> Tuple[str, int]:
    """Digest and size of a file."""
    hasher = Hasher()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(PIECE_BYTES), b""):
            hasher.update(piece)
    return hasher.digest(), hasher.size_bytes
