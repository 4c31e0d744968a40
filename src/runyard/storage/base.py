"""The seam of the artifact store: where the contents of snapshots, outputs, logs and models lie."""

from typing import BinaryIO, Iterable, List, Optional, Protocol, Set

from runyard.protocol.blobs import SignedPart, Upload, UploadSpec
from runyard.protocol.server import StoreStatus


class ArtifactStore(Protocol):
    """Contents under their digests. What a call has returned is durable; what is not whole is never visible.

    A store that is elsewhere raises ServiceException while it cannot be reached; whoever asked tries again. Calls may
    then block for some seconds, but ``has``, ``size`` and ``status`` never do where ``is_remote``.
    """

    #: May calls wait for a service?
    is_remote: bool

    def has(self, digests: Iterable[str]) -> Set[str]:
        """Those of the digests whose contents are here."""

    def size(self, digest: str) -> int:
        """Bytes of a content; NotFoundError where it is not here."""

    def open(self, digest: str) -> BinaryIO:
        """A content to read and seek in; NotFoundError where it is not here. Not checked: see ``read``."""

    def read(self, digest: str) -> bytes:
        """A whole content, checked; IntegrityError if it was lost or changed."""

    def read_many(self, digests: List[str], size_max: int) -> List[bytes]:
        """The first of these contents, checked, until they exceed ``size_max`` bytes; always one at least."""

    def put_many(self, contents: Iterable[bytes]) -> List[str]:
        """Store contents that are in memory; returns their digests, in order. Idempotent."""

    def plan_upload(self, spec: UploadSpec) -> Upload:
        """Begin a content that comes in parts, or go on with one that broke off."""

    def sign_parts(self, upload_id: str, numbers: Iterable[int]) -> List[SignedPart]:
        """Where parts may be put without us; ConflictError for an upload that is not direct."""

    def append_upload(self, upload_id: str, offset: int, data: bytes) -> int:
        """Add the part at ``offset``; returns where the next one begins. A part that is here is passed over."""

    def finish_upload(self, upload_id: str, expected: str) -> str:
        """Keep the content once it is known to be ``expected``; '': not known yet, ask again. Idempotent.

        IntegrityError where it is another one, of which nothing is kept.
        """

    def find_address(self, digest: str) -> Optional[str]:
        """Where a content may be read without us for some minutes; None where there is no such place."""

    def status(self) -> StoreStatus:
        """Where the contents lie, and whether they can be reached."""

    def tidy(self, now: float) -> None:
        """Remove what broken-off transfers left; ``now`` in seconds since 1970."""

    def close(self) -> None:
        """End what works in the background."""
