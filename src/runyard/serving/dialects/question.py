"""A request decoded: what to ask the model, and how to say its answer."""

from typing import Any, Callable, Dict, Optional, Tuple

Arrays = Dict[str, Any]
#: Body, content type, further headers.
Said = Tuple[bytes, str, Optional[Dict[str, str]]]


class Question:
    """One request; no record, since each request makes one."""

    __slots__ = ("encode", "inputs", "signature")

    def __init__(self, signature: str, inputs: Arrays, encode: Callable[[Arrays], Said]) -> None:
        self.signature, self.inputs, self.encode = signature, inputs, encode


class BadRequestError(Exception):
    """The request is wrong; the message says what, with which value."""
