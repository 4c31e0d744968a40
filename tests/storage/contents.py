"""Contents to store, and the ways in which they get there."""

import hashlib
import http.client
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from runyard.errors import IntegrityError, NotFoundError, ServiceException
from runyard.protocol.blobs import SignedPart, UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, combine
from runyard.storage.artifacts import RemoteStore
from runyard.storage.base import ArtifactStore

#: A content of three parts, and one of them.
CONTENT = os.urandom(1 << 20) * 16 + b"the end"
OTHER = os.urandom(70_000)


def spec(content: bytes, direct: bool = False) -> UploadSpec:
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    digests = [hashlib.sha256(one).digest() for one in chunks]
    return UploadSpec(combine(digests), len(content), tuple(one.hex() for one in digests), direct)


def send(store: ArtifactStore, content: bytes, numbers: tuple[int, ...] = (1, 2, 3)) -> str:
    """Send parts through the store; returns the upload's id."""
    upload = store.plan_upload(spec(content))
    for number in numbers:
        offset = (number - 1) * CHUNK_BYTES
        store.append_upload(upload.upload_id, offset, content[offset : offset + CHUNK_BYTES])
    return upload.upload_id


def put_at(part: SignedPart, data: bytes) -> int:
    """Put a part as a stranger would who has nothing but its address."""
    parts = urlsplit(part.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("PUT", f"{parts.path}?{parts.query}", data, part.headers)
        return connection.getresponse().status
    finally:
        connection.close()


def read_at(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def reads(store: RemoteStore, digest: str) -> bool:
    try:
        store.read(digest)
    except (IntegrityError, NotFoundError):
        return False
    return True


def wait(is_so: Callable[[], Any]) -> bool:
    """Is it so within some seconds?"""
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        try:
            if is_so():
                return True
        except ServiceException:
            pass
        time.sleep(0.05)
    return False
