"""Google Cloud Storage, over its own library. Parts are objects below ``staging/`` that the service composes."""

import json
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from runyard.errors import ConflictError, NotFoundError
from runyard.storage.objects import CONNECT_S, READ_S, SIGNED_S, ObjectFacts, StoreRefused, Telling

#: Most objects that one request composes.
COMPOSED_MAX = 32
#: How long a request is tried again, seconds.
RETRY_S = 20.0


class GoogleObjects:
    """The objects of one bucket below a prefix."""

    parts_max = 10_000
    #: A part's address names no checksum: the service takes what its holder sends.
    verifies_parts = False

    def __init__(self, place: str, bucket: str, prefix: str, endpoint: str, known: Dict[str, str]) -> None:
        """``known``: key, the text of a service account's JSON key; without it, what the machine is given."""
        self._prefix = prefix
        #: A key signs by itself; what a machine is given would have to ask for each address.
        self.signs = "key" in known
        self._endpoint = endpoint or None
        self._telling = Telling(place, _secrets(known.get("key", "")), _status)
        self._options: Dict[str, Any] = {"timeout": (CONNECT_S, READ_S), "retry": _retry()}
        with self._telling:
            self._client = _client(known.get("key", ""), endpoint)
            self._bucket = self._client.bucket(bucket)

    def check(self) -> None:
        try:
            with self._telling:
                found = self._client.list_blobs(
                    self._bucket, prefix=self._prefix + "probe/", max_results=1, **self._options
                )
                next(iter(found), None)
        except NotFoundError as error:
            raise StoreRefused(f"There is no such bucket: {error}") from None

    def put(self, key: str, data: bytes) -> None:
        with self._telling:
            # The checksum travels with the object, and the service refuses one that it does not have.
            self._blob(key).upload_from_string(data, checksum="md5", **self._options)

    def get(self, key: str, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        with self._telling:
            found: bytes = self._blob(key).download_as_bytes(
                start=start, end=start + size - 1, raw_download=True, checksum=None, **self._options
            )
        return found

    def find(self, key: str) -> Optional[int]:
        with self._telling:
            found = self._bucket.get_blob(self._prefix + key, **self._options)
        return None if found is None else int(found.size)

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        found = iter(self._client.list_blobs(self._bucket, prefix=self._prefix + prefix, **self._options))
        while True:
            with self._telling:
                one = next(found, None)
            if one is None:
                return
            yield ObjectFacts(one.name[len(self._prefix) :], int(one.size), one.updated.timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                with self._telling:
                    self._blob(key).delete(**self._options)
            except NotFoundError:
                pass

    def copy(self, source: str, target: str, size: int) -> None:
        blob, origin, token = self._blob(target), self._blob(source), None
        with self._telling:
            while True:
                token, _, _ = blob.rewrite(origin, token=token, **self._options)
                if token is None:
                    return

    def begin_parts(self, key: str) -> str:
        return os.urandom(12).hex()

    def put_part(self, key: str, token: str, number: int, data: bytes) -> None:
        self.put(_part(token, number), data)

    def list_parts(self, key: str, token: str) -> Dict[int, int]:
        found = {one.key.rpartition("/")[2]: one.size_bytes for one in self.list(_part(token))}
        return {int(name): size for name, size in found.items() if name.isdigit()}

    def finish_parts(self, key: str, token: str, chunks: List[str]) -> None:
        names = [_part(token, number) for number in range(1, len(chunks) + 1)]
        level = 0
        while len(names) > COMPOSED_MAX:
            level += 1
            firsts = range(0, len(names), COMPOSED_MAX)
            made = [f"{_part(token)}level-{level}-{first:08d}" for first in firsts]
            for target, first in zip(made, firsts, strict=True):
                self._compose(target, names[first : first + COMPOSED_MAX])
            names = made
        self._compose(key, names)
        self.abort_parts(key, token)

    def abort_parts(self, key: str, token: str) -> None:
        self.delete([one.key for one in self.list(_part(token))])

    def list_unfinished(self) -> Iterator[Tuple[str, str, float]]:
        return iter(())

    def sign_part(self, key: str, token: str, number: int, chunk: str, size: int) -> Tuple[str, Dict[str, str]]:
        url = self._sign(_part(token, number), "PUT")
        if url is None:
            raise ConflictError("The store's credentials sign no addresses; send the parts to the server.")
        return url, {}

    def sign_get(self, key: str) -> Optional[str]:
        return self._sign(key, "GET")

    def _compose(self, target: str, sources: List[str]) -> None:
        with self._telling:
            self._blob(target).compose([self._blob(one) for one in sources], **self._options)

    def _sign(self, key: str, method: str) -> Optional[str]:
        if not self.signs:
            return None
        with self._telling:
            url: str = self._blob(key).generate_signed_url(
                version="v4", expiration=SIGNED_S, method=method, api_access_endpoint=self._endpoint
            )
        return url

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(self._prefix + key)


def _part(token: str, number: int = 0) -> str:
    """A part's object; without a number, where the parts of that upload lie."""
    return f"staging/parts/{token}/" + (f"{number:08d}" if number else "")


def _client(key: str, endpoint: str) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from google.oauth2 import service_account

    options = {"api_endpoint": endpoint} if endpoint else None
    if key:
        facts = json.loads(key)
        credentials = service_account.Credentials.from_service_account_info(
            facts, scopes=["https://www.googleapis.com/auth/devstorage.read_write"]
        )
        return storage.Client(facts.get("project_id"), credentials, client_options=options)
    if endpoint:
        return storage.Client("none", AnonymousCredentials(), client_options=options)
    return storage.Client()


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(RETRY_S)


def _secrets(key: str) -> List[str]:
    """What a key's text holds that nobody should see."""
    if not key:
        return []
    facts = json.loads(key)
    return [str(facts.get(name, "")) for name in ("private_key", "private_key_id")]


def _status(error: BaseException) -> Optional[int]:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, GoogleAPICallError):
        return None if error.code is None else int(error.code)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return 403
    return None
