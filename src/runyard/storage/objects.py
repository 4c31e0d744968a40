"""The seam of an object service (S3, Azure Blob, GCS), as the artifact store needs it, and its errors as sentences."""

import re
from types import TracebackType
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Protocol, Tuple, Type

from runyard.errors import NotFoundError, RunyardError, ServiceException
from runyard.protocol.record import record

#: Longest wait for a connection and for a reply, seconds; how often a request is tried.
CONNECT_S, READ_S, TRIES = 5, 20, 2
#: How long an address lets its holder put or read, seconds.
SIGNED_S = 900

_SIGNED = re.compile(r"[?&](sig|signature|x-amz-[a-z-]+|x-goog-[a-z-]+)=[^&\s]+", re.IGNORECASE)


class StoreRefused(ServiceException):
    """The service answered that it will not: no such bucket, wrong credentials, no permission."""


@record
class ObjectFacts:
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    #: Seconds since 1970.
    changed_at: float


class ObjectService(Protocol):
    """Objects by key below one prefix. Calls block for as long as ``READ_S``, try again by themselves, and raise
    NotFoundError for an absent key, StoreRefused for what waiting does not heal, ServiceException for the rest.
    """

    #: Most parts of one object.
    parts_max: int
    #: Does the service refuse a part whose SHA-256 is not the one that its address names? Known after ``check``.
    verifies_parts: bool
    #: Can we make addresses for others?
    signs: bool

    def check(self) -> None:
        """Can objects be listed and written here? Finds out what the service verifies."""

    def put(self, key: str, data: bytes) -> None:
        """Store a whole object; durable, and received as it was sent, once it returns."""

    def get(self, key: str, start: int, size: int) -> bytes:
        """``size`` bytes from ``start``, fewer at the object's end only."""

    def find(self, key: str) -> Optional[int]:
        """Bytes of an object; None where there is none."""

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        """Every object whose key begins so."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; absent ones are fine."""

    def copy(self, source: str, target: str, size: int) -> None:
        """Copy within the service; the target is there as a whole or not at all."""

    def begin_parts(self, key: str) -> str:
        """Begin an object that comes in parts; what it is continued by."""

    def put_part(self, key: str, token: str, number: int, data: bytes) -> None:
        """Store part ``number``, from 1; received as it was sent."""

    def list_parts(self, key: str, token: str) -> Dict[int, int]:
        """Number and bytes of each part that is there; NotFoundError where the upload is over."""

    def finish_parts(self, key: str, token: str, chunks: List[str]) -> None:
        """Make the object of its parts, whose hex SHA-256 are ``chunks``; NotFoundError where the upload is over."""

    def abort_parts(self, key: str, token: str) -> None:
        """Forget an upload and its parts; one that is over is fine."""

    def list_unfinished(self) -> Iterator[Tuple[str, str, float]]:
        """Key, token and beginning of each upload that is not over; none where the service forgets them itself."""

    def sign_part(self, key: str, token: str, number: int, chunk: str, size: int) -> Tuple[str, Dict[str, str]]:
        """Address and headers by which anyone may put that part, for ``SIGNED_S``."""

    def sign_get(self, key: str) -> Optional[str]:
        """The address by which anyone may read the object, for ``SIGNED_S``; None where that cannot be."""


class Telling:
    """Turns what a service's library raises into one sentence without a credential in it."""

    def __init__(self, place: str, secrets: Iterable[str], judge: Callable[[BaseException], Optional[int]]) -> None:
        """``judge`` gives the HTTP status that an error of the library stands for; None: no answer came."""
        self._place = place
        self._secrets = sorted((text for text in secrets if len(text) >= 6), key=len, reverse=True)
        self._judge = judge

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], _: Optional[TracebackType]
    ) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, RunyardError):
            return
        status = self._judge(error)
        text = self._clean(" ".join(str(error).split()) or type(error).__name__)
        if status == 404:
            raise NotFoundError(f"{self._place} has no such object: {text}") from None
        if status in (400, 401, 403, 405):
            raise StoreRefused(f"The artifact store {self._place} refuses: {text}") from None
        if status is None:
            raise ServiceException(f"The artifact store {self._place} cannot be reached: {text}") from None
        raise ServiceException(f"The artifact store {self._place} does not answer as it should: {text}") from None

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _SIGNED.sub(r"\1=***", text)[:300]
