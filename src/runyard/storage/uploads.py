"""Large contents on their way into the bucket: parts of one chunk each, sent to us or straight to the service.

The digests of all chunks are told first, and make the content's digest. Parts that come through us are held against
them here. Parts that go past us are held against them by the service where it proves that it does (S3's SHA-256 of each
part); elsewhere they become an object below ``staging/`` that we read back before it is copied to its place.
"""

import hashlib
import os
import threading
import time
from typing import Callable, Dict, Iterable, List, Optional

from runyard.errors import ConflictError, IntegrityError, NotFoundError, UserErrorException
from runyard.protocol.blobs import SignedPart, Upload, UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, combine
from runyard.storage.catalog import Catalog, KnownUpload
from runyard.storage.objects import ObjectService
from runyard.storage.parallel import in_parallel
from runyard.storage.ranged import read_range

#: How long one request waits for an upload's end, seconds: reading it back may take longer, and is asked for again.
WAIT_S = 20.0
STAGING = "staging/"
#: Chunks that are read back by one request, and such requests at once.
READ_CHUNKS, READ_WIDTH = 4, 4


class Uploads:
    """The uploads of one bucket."""

    def __init__(self, service: ObjectService, catalog: Catalog, key_of: Callable[[str], str]) -> None:
        self._service = service
        self._catalog = catalog
        self._key_of = key_of
        self._lock = threading.Lock()
        self._ending: Dict[str, _Ending] = {}

    def plan(self, spec: UploadSpec) -> Upload:
        """Begin the upload, or go on with the one of that content that broke off."""
        if not spec.chunks:
            return Upload("", wants_chunks=True)
        chunks = self._check(spec)
        numbers = range(1, len(spec.chunks) + 1)
        if self._catalog.find(spec.digest) is not None:
            return Upload(_new_id(), tuple(numbers))
        is_direct = spec.direct and self._service.signs
        upload = self._catalog.find_upload_of(spec.digest, is_direct)
        if upload is not None:
            present = self._present(upload)
            if present or self._service.find(upload.key) == upload.size_bytes:
                self._catalog.touch_upload(upload.id, time.time())
                return Upload(upload.id, tuple(present or numbers), is_direct)
            self._catalog.end_upload(upload.id)
        upload = self._begin(spec, chunks, is_direct)
        return Upload(upload.id, (), is_direct)

    def sign(self, upload_id: str, numbers: Iterable[int]) -> List[SignedPart]:
        """Addresses for parts of a direct upload."""
        upload = self._get(upload_id)
        if not upload.is_direct:
            raise ConflictError("The parts of this upload are sent to the server.")
        self._catalog.touch_upload(upload_id, time.time())
        found = []
        for number in numbers:
            size = _part_size(upload, number)
            url, headers = self._service.sign_part(upload.key, upload.token, number, upload.chunk(number), size)
            found.append(SignedPart(number, url, headers))
        return found

    def append(self, upload_id: str, offset: int, data: bytes) -> int:
        """Pass the part at ``offset`` on; IntegrityError if it is not the chunk that was told."""
        upload = self._get(upload_id)
        number, rest = divmod(offset, CHUNK_BYTES)
        number += 1
        if rest or len(data) != _part_size(upload, number):
            raise UserErrorException(f"A part is one chunk of {CHUNK_BYTES} bytes; the last one is what is left.")
        if hashlib.sha256(data).hexdigest() != upload.chunk(number):
            raise IntegrityError(f"Part {number} is not the content that was told; it changed while it was sent.")
        self._service.put_part(upload.key, upload.token, number, data)
        self._catalog.touch_upload(upload_id, time.time())
        return offset + len(data)

    def finish(self, upload_id: str, expected: str) -> str:
        """``expected`` once its content is in its place; '' while that is under way."""
        upload = self._catalog.find_upload(upload_id)
        if upload is None:
            if self._catalog.find(expected) is not None:
                return expected
            raise _over(upload_id)
        if upload.digest != expected:
            raise IntegrityError(f"The upload is of {upload.digest}, and not of {expected}.")
        with self._lock:
            ending = self._ending.get(upload_id)
            if ending is None:
                ending = self._ending[upload_id] = _Ending(lambda: self._end(upload))
        if not ending.done.wait(WAIT_S):
            return ""
        with self._lock:
            self._ending.pop(upload_id, None)
        if ending.error is not None:
            raise ending.error
        return expected

    def tidy(self, before: float) -> None:
        """Forget what nobody went on with since ``before``, seconds since 1970, whoever began it."""
        for upload in self._catalog.old_uploads(before):
            self._service.abort_parts(upload.key, upload.token)
            self._catalog.end_upload(upload.id)
        known = set(self._catalog.uploads())
        for key, token, began_at in list(self._service.list_unfinished()):
            if began_at < before and (key, token) not in known:
                self._service.abort_parts(key, token)
        kept = {key for key, _ in known}
        self._service.delete(
            [one.key for one in self._service.list(STAGING) if one.changed_at < before and one.key not in kept]
        )

    def _check(self, spec: UploadSpec) -> bytes:
        """The raw digests of the chunks, which make the content's."""
        count = -(-spec.size_bytes // CHUNK_BYTES)
        if count < 2 or len(spec.chunks) != count:
            raise UserErrorException(
                f"An upload has more than {CHUNK_BYTES} bytes and a digest for each chunk of so many; "
                "smaller contents are sent in bundles."
            )
        if count > self._service.parts_max:
            limit = self._service.parts_max * CHUNK_BYTES >> 30
            raise UserErrorException(
                f"A content of {spec.size_bytes} bytes is too large: at most {limit} GiB. Split it."
            )
        try:
            raw = [bytes.fromhex(one) for one in spec.chunks]
        except ValueError:
            raw = []
        if any(len(one) != 32 for one in raw) or combine(raw) != spec.digest:
            raise IntegrityError(f"The digests of the chunks do not make {spec.digest}.")
        return b"".join(raw)

    def _begin(self, spec: UploadSpec, chunks: bytes, is_direct: bool) -> KnownUpload:
        upload_id = _new_id()
        is_staged = is_direct and not self._service.verifies_parts
        key = STAGING + upload_id if is_staged else self._key_of(spec.digest)
        token = self._service.begin_parts(key)
        upload = KnownUpload(upload_id, spec.digest, spec.size_bytes, chunks, key, token, is_direct)
        self._catalog.add_upload(upload, time.time())
        return upload

    def _present(self, upload: KnownUpload) -> List[int]:
        """Numbers of the parts that are there as a whole."""
        try:
            found = self._service.list_parts(upload.key, upload.token)
        except NotFoundError:
            return []
        return [n for n in range(1, upload.count + 1) if found.get(n) == _part_size(upload, n)]

    def _end(self, upload: KnownUpload) -> None:
        present = self._present(upload)
        if len(present) == upload.count:
            chunks = [upload.chunk(number) for number in range(1, upload.count + 1)]
            self._service.finish_parts(upload.key, upload.token, chunks)
        if self._service.find(upload.key) != upload.size_bytes:
            missing = next((n for n in range(1, upload.count + 1) if n not in set(present)), 1)
            raise ConflictError(f"Part {missing} of {upload.count} is not there; send it.")
        if upload.key.startswith(STAGING):
            try:
                self._read_back(upload)
            except IntegrityError:
                self._service.delete([upload.key])
                self._catalog.end_upload(upload.id)
                raise
            self._service.copy(upload.key, self._key_of(upload.digest), upload.size_bytes)
        self._catalog.add_objects([(upload.digest, upload.size_bytes)])
        self._catalog.end_upload(upload.id)
        if upload.key.startswith(STAGING):
            self._service.delete([upload.key])

    def _read_back(self, upload: KnownUpload) -> None:
        """IntegrityError where what lies below staging/ is not what was told."""

        def check(first: int) -> None:
            start = (first - 1) * CHUNK_BYTES
            size = min(READ_CHUNKS * CHUNK_BYTES, upload.size_bytes - start)
            data = memoryview(read_range(lambda a, b: self._service.get(upload.key, a, b), start, size))
            for number, at in enumerate(range(0, size, CHUNK_BYTES), first):
                if hashlib.sha256(data[at : at + CHUNK_BYTES]).hexdigest() != upload.chunk(number):
                    raise IntegrityError(f"The content that arrived is not {upload.digest}: part {number} differs.")

        in_parallel(check, range(1, upload.count + 1, READ_CHUNKS), READ_WIDTH)

    def _get(self, upload_id: str) -> KnownUpload:
        upload = self._catalog.find_upload(upload_id)
        if upload is None:
            raise _over(upload_id)
        return upload


class _Ending:
    """The end of one upload, on a thread that outlives the request that asked for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.done = threading.Event()
        self.error: Optional[Exception] = None
        self._work = work
        threading.Thread(target=self._carry_out, name="upload-end", daemon=True).start()

    def _carry_out(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - raised by whoever waits for it
            self.error = error
        self.done.set()


def _part_size(upload: KnownUpload, number: int) -> int:
    if not 1 <= number <= upload.count:
        raise UserErrorException(f"The upload has parts 1 to {upload.count}, and no part {number}.")
    return min(CHUNK_BYTES, upload.size_bytes - (number - 1) * CHUNK_BYTES)


def _new_id() -> str:
    return os.urandom(16).hex()


def _over(upload_id: str) -> NotFoundError:
    return NotFoundError(f"The upload {upload_id[:80]!r} is over or was never begun.")
