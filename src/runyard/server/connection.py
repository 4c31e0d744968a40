"""A client's connection: uvicorn's over httptools, with a limit on a request's head, which neither of them has."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Largest head of a request, bytes; what one read brings (256 KiB) may exceed it by as much.
HEAD_MAX = 64 << 10


class Connection(HttpToolsProtocol):
    """Ends a connection whose request head does not."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = False
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > HEAD_MAX:
            self.send_400_response(f"The head of a request is at most {HEAD_MAX} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head has ended."""
        self._is_in_head = False
        super().on_headers_complete()
