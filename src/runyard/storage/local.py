"""The artifact store of this machine's disk."""

from typing import Iterable, List, Optional

from runyard.errors import ConflictError
from runyard.files.blobs import BlobStore
from runyard.protocol.blobs import SignedPart, Upload, UploadSpec
from runyard.protocol.server import StoreStatus


class LocalStore(BlobStore):
    """A blob store as the server's artifact store; the sweep of its folder looks after what broke off."""

    is_remote = False

    def read_many(self, digests: List[str], size_max: int) -> List[bytes]:
        found: List[bytes] = []
        size = 0
        for digest in digests:
            size += self.size(digest)
            if found and size > size_max:
                break
            found.append(self.read(digest))
        return found

    def plan_upload(self, spec: UploadSpec) -> Upload:
        return Upload(self.begin_upload())

    def sign_parts(self, upload_id: str, numbers: Iterable[int]) -> List[SignedPart]:
        raise ConflictError("This server's contents lie on its own disk; send the parts to the server.")

    def find_address(self, digest: str) -> Optional[str]:
        return None

    def status(self) -> StoreStatus:
        return StoreStatus(str(self._root))

    def tidy(self, now: float) -> None:
        """Nothing: see the class."""

    def close(self) -> None:
        """Nothing works in the background."""
