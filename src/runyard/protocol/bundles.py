"""A bundle: many small contents in one body, each preceded by its length as a little-endian u64. Pure."""

import struct
from typing import Iterable, List

_LENGTH = struct.Struct("<Q")


def join_bundle(pieces: Iterable[bytes]) -> bytes:
    """The pieces as one body."""
    return b"".join(_LENGTH.pack(len(piece)) + piece for piece in pieces)


def split_bundle(body: bytes) -> List[bytes]:
    """The pieces of a body; ValueError where it is cut."""
    found, position = [], 0
    while position < len(body):
        if position + _LENGTH.size > len(body):
            raise ValueError("the bundle is cut in a length")
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size
        if length > len(body) - position:
            raise ValueError("the bundle is cut in a blob")
        found.append(body[position : position + length])
        position += length
    return found
