"""What a supervisor and its fronts say to each other: one JSON object a packet, with sockets beside it."""

import json
import socket
from typing import Any, Dict, Sequence

#: Longest order, bytes.
ORDER_MAX = 128 << 10


def pair() -> "tuple[socket.socket, socket.socket]":
    """Both ends of a line that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_order(line: socket.socket, order: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """One packet; OSError where nobody is at the other end."""
    data = json.dumps(order).encode()
    if len(data) > ORDER_MAX:
        raise ValueError(f"An order has at most {ORDER_MAX} bytes, not {len(data)}.")
    socket.send_fds(line, [data], list(descriptors))
