"""Azure Blob Storage, over its own library. Blocks that nobody commits are forgotten by the service after a week."""

import base64
import datetime
import hashlib
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple
from urllib.parse import quote

from runyard.errors import ConflictError, NotFoundError, ServiceException
from runyard.storage.objects import CONNECT_S, READ_S, SIGNED_S, TRIES, ObjectFacts, Telling

#: Longest wait for a copy within the service, seconds, and between two looks at it.
COPY_S, LOOK_S = 600.0, 0.5


class AzureObjects:
    """The blobs of one container below a prefix."""

    parts_max = 50_000
    #: A block's address names no checksum: the service takes what its holder sends.
    verifies_parts = False

    def __init__(self, place: str, container: str, prefix: str, endpoint: str, known: Dict[str, str]) -> None:
        """``known``: account, and key or sas."""
        self._prefix, self._known = prefix, known
        self.signs = "key" in known
        self._telling = Telling(place, (known.get("key", ""), known.get("sas", "")), _status)
        url = endpoint or f"https://{known['account']}.blob.core.windows.net"
        self._container = self._open(url.rstrip("/"), container)

    def check(self) -> None:
        """List, since that a container exists is told to strangers too."""
        with self._telling:
            next(iter(self._container.list_blobs(name_starts_with=self._prefix + "probe/", results_per_page=1)), None)

    def put(self, key: str, data: bytes) -> None:
        with self._telling:
            self._blob(key).upload_blob(data, overwrite=True, max_concurrency=1, headers=_md5(data))

    def get(self, key: str, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        with self._telling:
            found: bytes = self._blob(key).download_blob(start, size, max_concurrency=1).readall()
        return found

    def find(self, key: str) -> Optional[int]:
        try:
            with self._telling:
                return int(self._blob(key).get_blob_properties().size)
        except NotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        found = iter(self._container.list_blobs(name_starts_with=self._prefix + prefix))
        while True:
            with self._telling:
                one = next(found, None)
            if one is None:
                return
            yield ObjectFacts(one.name[len(self._prefix) :], int(one.size), one.last_modified.timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                with self._telling:
                    self._blob(key).delete_blob()
            except NotFoundError:
                pass

    def copy(self, source: str, target: str, size: int) -> None:
        blob, ends_at = self._blob(target), time.monotonic() + COPY_S
        with self._telling:
            blob.start_copy_from_url(self._blob(source).url)
            while blob.get_blob_properties().copy.status == "pending":
                if time.monotonic() > ends_at:
                    raise ServiceException(f"The copy of {source} takes longer than {COPY_S:.0f} s.")
                time.sleep(LOOK_S)
            if blob.get_blob_properties().copy.status not in ("success", None):
                raise ServiceException(f"The copy of {source} failed.")

    def begin_parts(self, key: str) -> str:
        """Nothing: blocks wait at the blob itself until they are committed."""
        return "blocks"

    def put_part(self, key: str, token: str, number: int, data: bytes) -> None:
        with self._telling:
            self._blob(key).stage_block(_block(number), data, headers=_md5(data))

    def list_parts(self, key: str, token: str) -> Dict[int, int]:
        with self._telling:
            _, waiting = self._blob(key).get_block_list("uncommitted")
        return {int(one.id): int(one.size) for one in waiting if one.id.isdigit()}

    def finish_parts(self, key: str, token: str, chunks: List[str]) -> None:
        from azure.storage.blob import BlobBlock

        blocks = [BlobBlock(_block(number)) for number in range(1, len(chunks) + 1)]
        with self._telling:
            self._blob(key).commit_block_list(blocks)

    def abort_parts(self, key: str, token: str) -> None:
        """Nothing: see the module."""

    def list_unfinished(self) -> Iterator[Tuple[str, str, float]]:
        return iter(())

    def sign_part(self, key: str, token: str, number: int, chunk: str, size: int) -> Tuple[str, Dict[str, str]]:
        url = self._sign(key, "cw")
        if url is None:
            raise ConflictError("The store's credentials sign no addresses; send the parts to the server.")
        block = base64.b64encode(_block(number).encode()).decode()
        return f"{url}&comp=block&blockid={quote(block, safe='')}", {}

    def sign_get(self, key: str) -> Optional[str]:
        return self._sign(key, "r")

    def _sign(self, key: str, permission: str) -> Optional[str]:
        """An address for that blob alone; None where we have no key to sign with."""
        if "key" not in self._known:
            return None
        from azure.storage.blob import generate_blob_sas

        blob = self._blob(key)
        with self._telling:
            proof = generate_blob_sas(
                self._known["account"],
                blob.container_name,
                blob.blob_name,
                account_key=self._known["key"],
                permission=permission,
                expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=SIGNED_S),
            )
        return f"{blob.url}?{proof}"

    def _blob(self, key: str) -> Any:
        return self._container.get_blob_client(self._prefix + key)

    def _open(self, url: str, container: str) -> Any:
        from azure.storage.blob import ContainerClient, ExponentialRetry

        credential: Any = self._known.get("sas")
        if "key" in self._known:
            credential = {"account_name": self._known["account"], "account_key": self._known["key"]}
        with self._telling:
            return ContainerClient(
                url,
                container,
                credential=credential,
                connection_timeout=CONNECT_S,
                read_timeout=READ_S,
                retry_policy=ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=TRIES - 1),
                # One request for each of our contents and blocks, which are at most 64 MiB.
                max_single_put_size=256 << 20,
            )


def _block(number: int) -> str:
    """A block's name: all have the same length."""
    return f"{number:08d}"


def _md5(data: bytes) -> Dict[str, str]:
    """The header by which the service checks what it receives."""
    return {"Content-MD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


def _status(error: BaseException) -> Optional[int]:
    from azure.core.exceptions import HttpResponseError

    if not isinstance(error, HttpResponseError):
        return None
    if error.error_code in ("ContainerNotFound", "AccountIsDisabled"):  # type: ignore[attr-defined]
        return 403
    if error.error_code == "InvalidBlockList":  # type: ignore[attr-defined]
        return 404
    return error.status_code
