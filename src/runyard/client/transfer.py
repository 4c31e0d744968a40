"""Bytes to and from the server: only what it lacks is sent, in bundles of small blobs and chunks of large ones."""

import os
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from runyard.client.http import Server
from runyard.errors import IntegrityError
from runyard.protocol.blobs import DigestList, UploadSpec
from runyard.protocol.bundles import join_bundle
from runyard.protocol.digests import CHUNK_BYTES, CHUNKED, Hasher

#: Most bytes and blobs in one bundle.
BUNDLE_BYTES, BUNDLE_COUNT = 8 << 20, 5_000
#: Digests asked for at once.
ASK_COUNT = 5_000

#: Read size, bytes.
PIECE_BYTES = 1 << 20

Progress = Callable[[int], None]


class FileBody:
    """A file as a request's body; read anew where the request must be sent again."""

    def __init__(self, path: str, progress: Optional[Progress] = None) -> None:
        self._path = path
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            for piece in iter(lambda: file.read(PIECE_BYTES), b""):
                if self._progress is not None:
                    self._progress(len(piece))
                yield piece


def send_blobs(server: Server, workspace: str, sources: Dict[str, str], progress: Optional[Progress] = None) -> int:
    """Send those of ``sources`` (digest -> file) that the server lacks; returns how many bytes were sent.

    ``progress`` is called with the bytes of each blob that is safe at the server, sent now or there before.
    """
    missing = set(find_missing(server, workspace, list(sources)))
    sent, bundle_bytes = 0, 0
    bundle: List[Tuple[str, str]] = []
    for digest, path in sources.items():
        size = os.path.getsize(path)
        if digest in missing:
            sent += size
            if size > CHUNK_BYTES:
                _send_large(server, workspace, digest, path, progress)
                continue
            if bundle and (bundle_bytes + size > BUNDLE_BYTES or len(bundle) >= BUNDLE_COUNT):
                _send_bundle(server, workspace, bundle)
                bundle, bundle_bytes = [], 0
            bundle.append((digest, path))
            bundle_bytes += size
        if progress is not None:
            progress(size)
    if bundle:
        _send_bundle(server, workspace, bundle)
    return sent


def find_missing(server: Server, workspace: str, digests: List[str]) -> List[str]:
    """Those of the digests whose blobs the server does not have."""
    missing: List[str] = []
    for start in range(0, len(digests), ASK_COUNT):
        asked = DigestList(tuple(digests[start : start + ASK_COUNT]))
        missing.extend(server.call("find_missing_blobs", asked, workspace=workspace).digests)
    return missing


def send_bytes(server: Server, workspace: str, pieces: Iterable[bytes]) -> List[str]:
    """Store small pieces of bytes; returns their digests."""
    return list(server.call("put_blobs", join_bundle(pieces), workspace=workspace).digests)


def receive_file(
    pieces: Iterable[bytes], target: str, digest: Optional[str] = None, progress: Optional[Progress] = None
) -> int:
    """Write a streamed reply to ``target``, all of it or nothing; IntegrityError if it differs from ``digest``."""
    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{os.path.basename(target)[:100]}.{os.urandom(4).hex()}.part")
    hasher = Hasher()
    try:
        with open(partial, "wb") as file:
            for piece in pieces:
                hasher.update(piece)
                file.write(piece)
                if progress is not None:
                    progress(len(piece))
        if digest is not None and hasher.digest() != digest:
            raise IntegrityError(f"{target} arrived damaged: its digest is not {digest}; try again.")
        os.replace(partial, target)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    return hasher.size_bytes


def receive_blob(
    server: Server,
    workspace: str,
    digest: Optional[str],
    target: str,
    pieces: Callable[[], Iterable[bytes]],
    progress: Optional[Progress] = None,
) -> None:
    """Write a content to ``target``, all of it or nothing: one of several chunks straight from where it lies.

    ``pieces`` gives it through the server, where it does not come otherwise. IntegrityError if it is not ``digest``.
    """
    if digest is not None and digest.startswith(CHUNKED + ":"):
        from runyard.client.direct import receive_direct

        if receive_direct(server, workspace, digest, target, progress):
            return
    receive_file(pieces(), target, digest, progress)


def _send_bundle(server: Server, workspace: str, bundle: List[Tuple[str, str]]) -> None:
    pieces = []
    for _, path in bundle:
        with open(path, "rb") as file:
            pieces.append(file.read())
    stored = send_bytes(server, workspace, pieces)
    for (digest, path), found in zip(bundle, stored):
        if digest != found:
            raise IntegrityError(f"{path} changed while it was being sent; try again.")


def _send_large(server: Server, workspace: str, digest: str, path: str, progress: Optional[Progress]) -> None:
    begun = server.call("begin_upload", UploadSpec(digest, os.path.getsize(path)), workspace=workspace)
    if begun.wants_chunks:
        from runyard.client.direct import send_parts

        send_parts(server, workspace, digest, path, progress)
        return
    upload = begun.upload_id
    offset = 0
    with open(path, "rb") as file:
        while True:
            file.seek(offset)
            data = file.read(CHUNK_BYTES)
            if not data:
                break
            reached = server.call(
                "append_upload", data, {"offset": offset}, workspace=workspace, upload_id=upload
            ).offset
            if progress is not None:
                progress(reached - offset)
            offset = reached
    server.call("finish_upload", DigestList((digest,)), workspace=workspace, upload_id=upload)
