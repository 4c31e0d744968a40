"""A file of this host into the artifact store, whole: at once, or by an upload that goes on where another stopped."""

import time
from hashlib import sha256
from pathlib import Path
from typing import Optional, Tuple

from runyard.protocol.blobs import UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, combine
from runyard.storage.base import ArtifactStore


def put_file(store: ArtifactStore, path: Path, ask_s: Optional[float] = None) -> Tuple[str, int]:
    """The content's digest and size; '' where the store is not done with it yet, unless it is asked each ``ask_s``."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= CHUNK_BYTES:
            return store.put_many([file.read()])[0], size
        hashes = [sha256(chunk).digest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b"")]
        digest = combine(hashes)
        if digest in store.has([digest]):
            return digest, size
        upload = store.plan_upload(UploadSpec(digest, size, tuple(one.hex() for one in hashes)))
        for number in range(len(hashes)):
            if number + 1 not in upload.present:
                file.seek(number * CHUNK_BYTES)
                store.append_upload(upload.upload_id, file.tell(), file.read(CHUNK_BYTES))
    while not store.finish_upload(upload.upload_id, digest):
        if ask_s is None:
            return "", size
        time.sleep(ask_s)
    return digest, size
