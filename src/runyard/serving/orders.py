"""What a supervisor and its fronts say to each other: one JSON object a packet, with sockets beside it."""

import json
import socket
from typing import Any, Dict, List, Sequence, Tuple

#: Longest order, bytes; most descriptors beside one.
ORDER_MAX, DESCRIPTORS_MAX = 128 << 10, 8
#: What is left of each text of one that is longer, characters: JSON writes some in six bytes.
TEXT_MAX = 8_000
#: What a front ends with whose program is another release's than its supervisor: it was upgraded meanwhile.
OTHER_VERSION = 5


def pair() -> "tuple[socket.socket, socket.socket]":
    """Both ends of a line that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_order(line: socket.socket, order: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """One packet; of one that is too long the beginning of each text. OSError where nobody is at the other end."""
    data = _encoded(order)
    if len(data) > ORDER_MAX:
        data = _encoded({name: one[:TEXT_MAX] if isinstance(one, str) else one for name, one in order.items()})
    socket.send_fds(line, [data], list(descriptors))


def _encoded(order: Dict[str, Any]) -> bytes:
    return json.dumps(order, ensure_ascii=False).encode("utf-8", "replace")


def receive_order(line: socket.socket) -> Tuple[Dict[str, Any], List[int]]:
    """One packet and what came beside it; an empty one where the other end is gone, BlockingIOError for none."""
    try:
        data, descriptors, _, _ = socket.recv_fds(line, ORDER_MAX, DESCRIPTORS_MAX)
    except BlockingIOError:
        raise
    except OSError:
        return {}, []
    return (json.loads(data) if data else {}), descriptors


def path_of(descriptor: int) -> str:
    """The name of an open file, for whoever takes no other; it holds where the file's own is not to be seen."""
    return f"/proc/self/fd/{descriptor}"
