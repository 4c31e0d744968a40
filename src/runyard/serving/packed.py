"""Bodies that come packed (Content-Encoding): unpacked in steps, so that a small one cannot become a large one."""

import zlib
from typing import Iterator

#: zlib's window bits for each encoding that is unpacked; HTTP's deflate is zlib's format.
ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
#: Most bytes that one step gives.
STEP_BYTES = 1 << 18
#: Most files of gzip in one body: each costs more than its bytes.
MEMBERS_MAX = 1_000


class Unpacking:
    """One body."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._inflate = zlib.decompressobj(ENCODINGS[encoding])
        self._has_begun = False
        self._members = 1

    @property
    def is_whole(self) -> bool:
        """Has its end come?"""
        return self._inflate.eof or not self._has_begun

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What a piece becomes, step by step; whoever stops asking has made no more than that. zlib.error: damaged."""
        while piece:
            if self._inflate.eof:
                self._next_member()
            self._has_begun = True
            yield from self._member(piece)
            piece = self._inflate.unused_data

    def _member(self, piece: bytes) -> Iterator[bytes]:
        while True:
            made = self._inflate.decompress(piece, STEP_BYTES)
            if made:
                yield made
            piece = self._inflate.unconsumed_tail
            # A full step may have left some of what is taken in already.
            if self._inflate.eof or (not piece and len(made) < STEP_BYTES):
                return

    def _next_member(self) -> None:
        if ENCODINGS[self._encoding] != ENCODINGS["gzip"]:
            raise zlib.error("there is something behind its end")
        # Files of gzip may be put together.
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise zlib.error(f"it is put together of more than {MEMBERS_MAX} files")
        self._inflate = zlib.decompressobj(ENCODINGS[self._encoding])
