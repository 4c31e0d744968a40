"""Messages between a service's front and a model's process: a JSON header, then the bytes of its arrays.

``<header bytes: uint32><body bytes: uint64><header><body>``, little-endian.
"""

import json
import socket as sockets
import struct
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

_SIZES = struct.Struct("<IQ")
#: What every message begins with, bytes.
SIZES_BYTES = _SIZES.size
#: Longest header and body, bytes: whoever sends more is not one of ours.
HEADER_MAX, BODY_MAX = 256 << 20, 4 << 30
#: Another machine that is gone is noticed after so long without a word, between so many tries, seconds and tries.
KEEP_IDLE_S, KEEP_STEP_S, KEEP_TRIES = 15, 5, 3

Frame = Tuple[Dict[str, Any], memoryview]


def encode(header: Dict[str, Any], buffers: Sequence[Any] = ()) -> List[Any]:
    """A message as pieces to be written one after another; the buffers are not copied."""
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    views = [memoryview(one).cast("B") for one in buffers if len(memoryview(one))]
    return [_SIZES.pack(len(text), sum(len(one) for one in views)) + text, *views]


def send(socket: Any, header: Dict[str, Any], buffers: Sequence[Any] = ()) -> None:
    """Write a message to a blocking socket."""
    for piece in encode(header, buffers):
        socket.sendall(piece)


def receive(socket: Any) -> Optional[Frame]:
    """The next message of a blocking socket; None where the other side has closed it."""
    sizes = _exactly(socket, _SIZES.size)
    if sizes is None:
        return None
    header_size, body_size = checked_sizes(sizes)
    header, body = _exactly(socket, header_size), _exactly(socket, body_size)
    if header is None or body is None:
        return None
    return json.loads(bytes(header).decode("utf-8")), body


def checked_sizes(data: Any) -> Tuple[int, int]:
    """The sizes that a message begins with; ValueError where no message of ours has such."""
    header_size, body_size = _SIZES.unpack_from(data)
    if header_size > HEADER_MAX or body_size > BODY_MAX:
        raise ValueError(f"A message of {header_size} + {body_size} bytes is none of ours.")
    return header_size, body_size


def _exactly(socket: Any, size: int) -> Optional[memoryview]:
    data = memoryview(bytearray(size))
    done = 0
    while done < size:
        got = socket.recv_into(data[done:])
        if not got:
            return None
        done += got
    return data


class Unpacker:
    """Messages out of bytes that come in any portions."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The messages that are whole now."""
        self._pending += data
        while len(self._pending) >= _SIZES.size:
            header_size, body_size = checked_sizes(self._pending)
            end = _SIZES.size + header_size + body_size
            if len(self._pending) < end:
                return
            whole = memoryview(bytes(memoryview(self._pending)[:end]))
            del self._pending[:end]
            begin = _SIZES.size + header_size
            yield json.loads(bytes(whole[_SIZES.size : begin]).decode("utf-8")), whole[begin:]


def keep_alive(line: Any) -> None:
    """Have the kernel notice that the machine at the other end is gone; what a socket accepts inherits it."""
    line.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_IDLE_S),
        ("TCP_KEEPINTVL", KEEP_STEP_S),
        ("TCP_KEEPCNT", KEEP_TRIES),
        # While something that was sent is not acknowledged, the others do not count.
        ("TCP_USER_TIMEOUT", 1000 * (KEEP_IDLE_S + KEEP_STEP_S * KEEP_TRIES)),
        ("TCP_NODELAY", 1),
    ):
        if hasattr(sockets, name):
            line.setsockopt(sockets.IPPROTO_TCP, getattr(sockets, name), value)
