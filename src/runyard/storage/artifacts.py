"""The artifact store in a bucket or container: contents below one prefix, found by a catalog on the server's disk.

``blobs/<kind>/<2 hex>/<hex>`` holds contents of 64 KiB and more, ``packs/`` smaller ones side by side, and ``staging/``
what is not known yet to be what it should. The first two are the truth: the catalog is made again from their listing.
"""

import io
import logging
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, List, Optional, Set, cast

from runyard.errors import IntegrityError, NotFoundError, RunyardError, ServiceException
from runyard.files.blobs import PACKED_BELOW, BlobStore
from runyard.protocol.blobs import SignedPart, Upload, UploadSpec
from runyard.protocol.digests import check_digest, digest_bytes
from runyard.protocol.server import StoreStatus
from runyard.storage.catalog import Catalog, Place
from runyard.storage.objects import ObjectService, StoreRefused
from runyard.storage.packed import Packer, make_pack, pack_key
from runyard.storage.parallel import in_parallel
from runyard.storage.ranged import RangedFile, read_range
from runyard.storage.recount import merge_packs, recount
from runyard.storage.uploads import Uploads

#: Small contents that are kept in memory, bytes in all: what was sent a moment ago is read next.
RECENT_BYTES = 32 << 20
#: Contents of a pack that lie so near to each other are read at once, bytes.
GAP_BYTES, RANGE_BYTES = 64 << 10, 8 << 20
#: So many failures in a row count as unreachable: further calls fail at once for so long, seconds.
FAILURES, PAUSE_S = 3, 2.0
#: Between two looks at a service that fails, and between two listings of one that answers, seconds.
LOOK_S, RECOUNT_S = 5.0, 86_400.0
#: How long a question waits for a catalog that is being made, seconds.
LISTED_S = 5.0
#: How long a broken-off transfer may be gone on with, seconds.
UNFINISHED_S = 86_400.0

_log = logging.getLogger("runyard.store")


class RemoteStore:
    """The artifact store in a bucket; ``older``: a store on this disk from before, that is only read."""

    is_remote = True

    def __init__(self, place: str, service: ObjectService, folder: Path, older: Optional[BlobStore] = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._service = service
        self._older = older
        self._catalog = Catalog(folder / "catalog.db", place)
        self._reach = Reach(place)
        self._uploads = Uploads(service, self._catalog, blob_key)
        self._packer = Packer(self._write_pack)
        self._recent = _Recent(RECENT_BYTES)
        self._listed, self._stopping, self._wake = threading.Event(), threading.Event(), threading.Event()
        if self._catalog.fact("listed"):
            self._listed.set()

    def start(self) -> bool:
        """Keep the catalog right from now on; does the service answer? StoreRefused where it will not have us."""
        try:
            self._look()
        except StoreRefused:
            raise
        except ServiceException as error:
            _log.error("%s The server starts without it, and goes on trying.", error)
        threading.Thread(target=self._keep_up, name="store", daemon=True).start()
        return not self._reach.problem

    def has(self, digests: Iterable[str]) -> Set[str]:
        wanted = set(digests)
        found = set(self._catalog.find_all(list(wanted)))
        if len(found) < len(wanted) and not self._listed.wait(LISTED_S if not self._reach.problem else 0):
            raise self._unlisted()
        return found

    def size(self, digest: str) -> int:
        place = self._find(digest)
        if place is not None:
            return place.size_bytes
        return self._fallback(digest).size(digest)

    def open(self, digest: str) -> BinaryIO:
        place = self._find(digest)
        if place is None:
            return self._fallback(digest).open(digest)
        if place.pack:
            return io.BytesIO(self._read_packed([place])[digest])
        key = blob_key(digest)
        return cast(BinaryIO, RangedFile(lambda start, size: self._get(key, start, size), place.size_bytes))

    def read(self, digest: str) -> bytes:
        with self.open(digest) as file:
            data = file.read()
        if digest_bytes(data) != digest:
            raise IntegrityError(f"The stored content {digest} is damaged; restore it from a copy.")
        return data

    def read_many(self, digests: List[str], size_max: int) -> List[bytes]:
        known, size = self._catalog.find_all(digests), 0
        chosen: List[str] = []
        for digest in digests:
            size += known[digest].size_bytes if digest in known else self.size(digest)
            if chosen and size > size_max:
                break
            chosen.append(digest)
        packed = self._read_packed([known[one] for one in dict.fromkeys(chosen) if one in known and known[one].pack])
        return [packed[one] if one in packed else self.read(one) for one in chosen]

    def put_many(self, contents: Iterable[bytes]) -> List[str]:
        blobs = [(digest_bytes(data), data) for data in contents]
        known = self._catalog.find_all([digest for digest, _ in blobs])
        new = {digest: data for digest, data in blobs if digest not in known}
        small = {digest: data for digest, data in new.items() if len(data) < PACKED_BELOW}
        large = [digest for digest in new if digest not in small]
        if large:
            with self._reach:
                in_parallel(lambda digest: self._service.put(blob_key(digest), new[digest]), large)
            self._catalog.add_objects((digest, len(new[digest])) for digest in large)
        if small:
            self._packer.put(small)
            self._recent.add(small)
        return [digest for digest, _ in blobs]

    def plan_upload(self, spec: UploadSpec) -> Upload:
        with self._reach:
            return self._uploads.plan(spec)

    def sign_parts(self, upload_id: str, numbers: Iterable[int]) -> List[SignedPart]:
        return self._uploads.sign(upload_id, numbers)

    def append_upload(self, upload_id: str, offset: int, data: bytes) -> int:
        with self._reach:
            return self._uploads.append(upload_id, offset, data)

    def finish_upload(self, upload_id: str, expected: str) -> str:
        with self._reach:
            return self._uploads.finish(upload_id, expected)

    def find_address(self, digest: str) -> Optional[str]:
        place = self._catalog.find(digest)
        return None if place is None or place.pack else self._service.sign_get(blob_key(digest))

    def status(self) -> StoreStatus:
        problem = self._reach.problem
        return StoreStatus(self._place, problem or ("" if self._listed.is_set() else str(self._unlisted())))

    def tidy(self, now: float) -> None:
        """What transfers of any server left, and packs that are too small; raises where the service fails."""
        with self._reach:
            self._uploads.tidy(now - UNFINISHED_S)
            merge_packs(self._service, self._catalog, self._read_packed)

    def close(self) -> None:
        self._stopping.set()
        self._wake.set()

    def _keep_up(self) -> None:
        listed_at = time.monotonic()
        while not self._stopping.is_set():
            is_asked = self._wake.is_set()
            self._wake.clear()
            try:
                if self._reach.problem:
                    self._look()
                if is_asked or not self._listed.is_set() or time.monotonic() - listed_at > RECOUNT_S:
                    with self._reach:
                        recount(self._service, self._catalog, blob_prefix, digest_of)
                    listed_at = time.monotonic()
                    self._listed.set()
            except RunyardError as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001 - the next round tries again
                _log.exception("the artifact store could not be listed")
            self._wake.wait(LOOK_S)

    def _look(self) -> None:
        self._reach.forgive()
        with self._reach:
            self._service.check()

    def _get(self, key: str, start: int, size: int) -> bytes:
        try:
            with self._reach:
                return self._service.get(key, start, size)
        except NotFoundError:
            self._wake.set()
            raise IntegrityError(f"The artifact store has lost {key}; restore it from a copy.") from None

    def _read_packed(self, places: List[Place]) -> Dict[str, bytes]:
        """Contents of packs by their digests, checked; what lies side by side is read at once."""
        found = self._recent.find([one.digest for one in places])
        wanted = sorted((one for one in places if one.digest not in found), key=lambda one: (one.pack, one.start))
        spans: List[List[Place]] = []
        for one in wanted:
            if spans and _is_near(spans[-1], one):
                spans[-1].append(one)
            else:
                spans.append([one])

        def read(span: List[Place]) -> None:
            found.update(self._read_span(span))

        in_parallel(read, spans)
        self._recent.add({one.digest: found[one.digest] for one in wanted})
        return found

    def _read_span(self, span: List[Place]) -> Dict[str, bytes]:
        first, last = span[0], span[-1]
        size = last.start + last.size_bytes - first.start
        try:
            data = read_range(lambda a, b: self._get(pack_key(first.pack), a, b), first.start, size)
        except IntegrityError:
            # Its contents may have moved into another pack meanwhile.
            moved = self._catalog.find_all([one.digest for one in span])
            if any(one.digest not in moved or moved[one.digest].pack == first.pack for one in span):
                raise
            return {one.digest: self._read_span([moved[one.digest]])[one.digest] for one in span}
        found = {}
        for one in span:
            content = data[one.start - first.start : one.start - first.start + one.size_bytes]
            if digest_bytes(content) != one.digest:
                raise IntegrityError(f"The stored content {one.digest} is damaged; restore it from a copy.")
            found[one.digest] = content
        return found

    def _write_pack(self, blobs: Dict[str, bytes]) -> None:
        name, data, places = make_pack(blobs)
        with self._reach:
            self._service.put(pack_key(name), data)
        self._catalog.add_pack(name, len(data), places)

    def _find(self, digest: str) -> Optional[Place]:
        """Where a content lies; a catalog that is being made is waited for a moment."""
        place = self._catalog.find(check_digest(digest))
        if place is None and not self._listed.is_set() and not self._reach.problem:
            self._listed.wait(LISTED_S)
            return self._catalog.find(digest)
        return place

    def _fallback(self, digest: str) -> BlobStore:
        """The store from before, if it has that content; NotFoundError otherwise."""
        if self._older is not None and self._older.has([digest]):
            return self._older
        if not self._listed.is_set():
            raise self._unlisted()
        raise NotFoundError(f"The store has no content {digest}.")

    def _unlisted(self) -> ServiceException:
        return ServiceException(
            f"The contents of the artifact store {self._place} are being listed, since this server has no index of "
            "them yet; try again in a moment." + (f" {self._reach.problem}" if self._reach.problem else "")
        )


class Reach:
    """Around each call of the service: counts failures, and lets further calls fail at once while there are many."""

    def __init__(self, place: str) -> None:
        #: One sentence while the service fails; '' otherwise.
        self.problem = ""
        self._place = place
        self._failures, self._failed_at = 0, 0.0

    def forgive(self) -> None:
        """Let the next call through."""
        self._failures = 0

    def __enter__(self) -> None:
        if self._failures >= FAILURES and time.monotonic() - self._failed_at < PAUSE_S:
            raise ServiceException(self.problem or f"The artifact store {self._place} cannot be reached.")

    def __exit__(self, kind: object, error: Optional[BaseException], _: object) -> None:
        if isinstance(error, ServiceException):
            self._failures, self._failed_at, self.problem = self._failures + 1, time.monotonic(), str(error)
        elif error is None or isinstance(error, (NotFoundError, IntegrityError)):
            self._failures, self.problem = 0, ""


class _Recent:
    """Small contents in memory, the latest ones."""

    def __init__(self, size_max: int) -> None:
        self._size_max, self._size = size_max, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def add(self, contents: Dict[str, bytes]) -> None:
        with self._lock:
            for digest, data in contents.items():
                if digest not in self._kept:
                    self._kept[digest] = data
                    self._size += len(data)
            while self._size > self._size_max:
                self._size -= len(self._kept.popitem(last=False)[1])

    def find(self, digests: Iterable[str]) -> Dict[str, bytes]:
        with self._lock:
            return {one: self._kept[one] for one in digests if one in self._kept}


def blob_key(digest: str) -> str:
    """The object of a content that lies alone."""
    kind, _, name = check_digest(digest).partition(":")
    return f"{blob_prefix}{kind}/{name[:2]}/{name}"


#: Where those objects lie.
blob_prefix = "blobs/"


def digest_of(key: str) -> str:
    """The digest of such an object's content; UserErrorException for a key that is none."""
    parts = key[len(blob_prefix) :].split("/")
    return check_digest(f"{parts[0]}:{parts[-1]}")


def _is_near(span: List[Place], one: Place) -> bool:
    first, last = span[0], span[-1]
    return (
        one.pack == last.pack
        and one.start - (last.start + last.size_bytes) <= GAP_BYTES
        and one.start + one.size_bytes - first.start <= RANGE_BYTES
    )
