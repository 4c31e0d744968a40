"""What tells a file on disk from others, read piece by piece. Standard library."""

from hashlib import sha256
from typing import Tuple

from runyard.protocol.digests import Hasher

#: Read size, bytes.
PIECE_BYTES = 1 << 20


def hash_file(path: str) -> Tuple[str, int]:
    """Digest and size of a file, as we name contents."""
    hasher = Hasher()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(PIECE_BYTES), b""):
            hasher.update(piece)
    return hasher.digest(), hasher.size_bytes


def sha256_of(path: str) -> str:
    """Hex SHA-256 of a file's bytes, as others name them too."""
    hasher = sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(PIECE_BYTES), b""):
            hasher.update(piece)
    return hasher.hexdigest()
