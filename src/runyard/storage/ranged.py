"""A content in the bucket as a file to read and seek in: by ranges, each asked for again where it breaks off."""

import io
import time
from typing import Callable

from runyard.errors import IntegrityError, ServiceException

#: Smallest and largest range, bytes: who reads on and on gets larger ones.
LEAST, MOST = 256 << 10, 8 << 20
#: How often a range is asked for, and the pause before the second time, seconds.
TRIES, PAUSE_S = 3, 0.3


class RangedFile(io.RawIOBase):
    """``get(start, bytes)`` reads; ``size`` is known."""

    def __init__(self, get: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._get = get
        self._size = size
        self._position = 0
        self._start, self._block = 0, b""
        self._next = LEAST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer at the end only; -1: all that is left."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted > 0:
            piece = self._piece(wanted)
            pieces.append(piece)
            wanted -= len(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def readinto(self, buffer: "bytearray") -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _piece(self, wanted: int) -> bytes:
        offset = self._position - self._start
        if not 0 <= offset < len(self._block):
            is_next = offset == len(self._block)
            self._next = min(MOST, self._next * 2) if is_next else LEAST
            size = min(self._size - self._position, max(self._next, min(wanted, MOST)))
            self._block = read_range(self._get, self._position, size)
            self._start, offset = self._position, 0
        return self._block[offset : offset + wanted]


def read_range(get: Callable[[int, int], bytes], start: int, size: int) -> bytes:
    """Exactly those bytes; what breaks off is asked for again, and IntegrityError says that the object is too short."""
    for attempt in range(TRIES):
        try:
            data = get(start, size)
        except ServiceException:
            if attempt + 1 == TRIES:
                raise
        else:
            if len(data) == size:
                return data
        time.sleep(PAUSE_S * (attempt + 1))
    raise IntegrityError(f"An object of the artifact store ends before byte {start + size}; restore it from a copy.")
