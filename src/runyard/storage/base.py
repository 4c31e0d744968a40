"""The two seams of storage: where the contents of snapshots, outputs, logs and models lie, and where data lie."""

from typing import BinaryIO, Dict, Iterable, List, Optional, Protocol, Set, Tuple

from runyard.protocol.blobs import SignedPart, Upload, UploadSpec
from runyard.protocol.datastores import DatastoreFile
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


class DatastoreFiles(Protocol):
    """The files of one datastore, by paths below its root. Calls may block; whoever asked tries again.

    UserErrorException for a path that ``check_path`` refuses or that leaves the root, and where a service does not let
    us in; ServiceException while one does not answer. No message holds a credential.
    """

    def list(self, path: str, notices: Optional[Dict[str, None]] = None) -> List[DatastoreFile]:
        """Files at ``path``, by path: one file, all below a folder, or those that match a glob; none there: empty.

        ``notices`` gets a sentence for each that is there and left out, since no path of ours can name it.
        UserErrorException where there are more than ``LISTING_MAX``, or where this kind cannot list them.
        """

    def open(self, path: str) -> Tuple[BinaryIO, DatastoreFile]:
        """The file, to read and seek in, and what it is now; NotFoundError where there is none, or a folder."""

    def write(self, path: str, source: BinaryIO, overwrite: bool) -> DatastoreFile:
        """Store all that ``source``, a file with a name, holds, or nothing. With ``overwrite`` it may be repeated.

        ConflictError where a file is there, unless ``overwrite``; UserErrorException where a folder is, and where this
        kind takes no such name or no file at all; StorageFullError where a disk of this machine is full.
        """


class RemoteFiles(DatastoreFiles, Protocol):
    """Files that a service holds."""

    def check(self) -> None:
        """Does the service let us in, and has it the bucket? NotFoundError or UserErrorException says what not."""

    def make_root(self) -> None:
        """Make the bucket if it is not there; UserErrorException where this kind cannot."""
