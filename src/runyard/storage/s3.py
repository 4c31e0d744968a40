"""S3, and whatever speaks its protocol, over botocore."""

import base64
import hashlib
import os
import re
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from runyard.errors import IntegrityError, NotFoundError
from runyard.storage.objects import CONNECT_S, READ_S, SIGNED_S, TRIES, ObjectFacts, StoreRefused, Telling

#: Largest object that one request copies, and the parts in which larger ones are, bytes.
COPY_MAX, COPY_PART = 5 << 30, 1 << 30
#: Most keys that one request deletes.
DELETE_MAX = 1000
#: Connections kept open.
CONNECTIONS = 32

_MD5 = re.compile(r"[0-9a-f]{32}")


class S3Objects:
    """The objects of one bucket below a prefix."""

    parts_max = 10_000
    signs = True

    def __init__(self, place: str, bucket: str, prefix: str, endpoint: str, known: Dict[str, str]) -> None:
        """``known``: key, secret, token, region; without a key, what the machine itself is given by its cloud."""
        self.verifies_parts = False
        self._bucket, self._prefix = bucket, prefix
        self._telling = Telling(place, (known.get("key", ""), known.get("secret", ""), known.get("token", "")), _status)
        self._client = self._open(endpoint, known)

    def check(self) -> None:
        """Find out with one part whose checksum is wrong: some services take every one."""
        with self._telling:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + "probe/", MaxKeys=1)
        key = "probe/" + os.urandom(8).hex()
        token = self.begin_parts(key)
        try:
            with self._telling:
                self._client.upload_part(
                    **self._part(key, token, 1), Body=b"probe", ChecksumSHA256=_base64(hashlib.sha256(b"").hexdigest())
                )
            self.verifies_parts = False
        except StoreRefused:
            self.verifies_parts = True
        finally:
            self.abort_parts(key, token)

    def put(self, key: str, data: bytes) -> None:
        found = hashlib.sha256(data)
        with self._telling:
            reply = self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=data, ChecksumSHA256=_base64(found.hexdigest())
            )
        self._check_received(reply, data, key)

    def get(self, key: str, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        with self._telling:
            reply = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes={start}-{start + size - 1}"
            )
            found: bytes = reply["Body"].read()
        return found

    def find(self, key: str) -> Optional[int]:
        try:
            with self._telling:
                return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"])
        except NotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in self._told(pages):
            for one in page.get("Contents", ()):
                yield ObjectFacts(one["Key"][len(self._prefix) :], one["Size"], one["LastModified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        names = [{"Key": self._prefix + key} for key in keys]
        for first in range(0, len(names), DELETE_MAX):
            with self._telling:
                self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": names[first : first + DELETE_MAX], "Quiet": True}
                )

    def copy(self, source: str, target: str, size: int) -> None:
        origin = {"Bucket": self._bucket, "Key": self._prefix + source}
        if size <= COPY_MAX:
            with self._telling:
                self._client.copy_object(Bucket=self._bucket, Key=self._prefix + target, CopySource=origin)
            return
        with self._telling:
            token = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + target)["UploadId"]
            parts = []
            for number, start in enumerate(range(0, size, COPY_PART), 1):
                span = f"bytes={start}-{min(size, start + COPY_PART) - 1}"
                reply = self._client.upload_part_copy(
                    **self._part(target, token, number), CopySource=origin, CopySourceRange=span
                )
                parts.append({"PartNumber": number, "ETag": reply["CopyPartResult"]["ETag"]})
            self._client.complete_multipart_upload(**self._upload(target, token), MultipartUpload={"Parts": parts})

    def begin_parts(self, key: str) -> str:
        with self._telling:
            reply = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, ChecksumAlgorithm="SHA256"
            )
        token: str = reply["UploadId"]
        return token

    def put_part(self, key: str, token: str, number: int, data: bytes) -> None:
        with self._telling:
            reply = self._client.upload_part(
                **self._part(key, token, number), Body=data, ChecksumSHA256=_base64(hashlib.sha256(data).hexdigest())
            )
        self._check_received(reply, data, key)

    def list_parts(self, key: str, token: str) -> Dict[int, int]:
        return {number: one["Size"] for number, one in self._parts(key, token).items()}

    def finish_parts(self, key: str, token: str, chunks: List[str]) -> None:
        found = self._parts(key, token)
        parts = [{"PartNumber": number, "ETag": found[number]["ETag"]} for number in range(1, len(chunks) + 1)]
        if self.verifies_parts:
            # The service holds each part against it once more.
            parts = [{**one, "ChecksumSHA256": _base64(chunk)} for one, chunk in zip(parts, chunks, strict=True)]
        with self._telling:
            self._client.complete_multipart_upload(**self._upload(key, token), MultipartUpload={"Parts": parts})

    def abort_parts(self, key: str, token: str) -> None:
        try:
            with self._telling:
                self._client.abort_multipart_upload(**self._upload(key, token))
        except NotFoundError:
            pass

    def list_unfinished(self) -> Iterator[Tuple[str, str, float]]:
        pages = self._client.get_paginator("list_multipart_uploads")
        for page in self._told(pages.paginate(Bucket=self._bucket, Prefix=self._prefix)):
            for one in page.get("Uploads", ()):
                if one["Key"].startswith(self._prefix):
                    yield one["Key"][len(self._prefix) :], one["UploadId"], one["Initiated"].timestamp()

    def sign_part(self, key: str, token: str, number: int, chunk: str, size: int) -> Tuple[str, Dict[str, str]]:
        checksum = _base64(chunk)
        with self._telling:
            url = self._client.generate_presigned_url(
                "upload_part",
                {**self._part(key, token, number), "ChecksumSHA256": checksum, "ContentLength": size},
                ExpiresIn=SIGNED_S,
            )
        return url, {"x-amz-checksum-sha256": checksum}

    def sign_get(self, key: str) -> Optional[str]:
        with self._telling:
            url: str = self._client.generate_presigned_url(
                "get_object", {"Bucket": self._bucket, "Key": self._prefix + key}, ExpiresIn=SIGNED_S
            )
        return url

    def _parts(self, key: str, token: str) -> Dict[int, Dict[str, Any]]:
        pages = self._client.get_paginator("list_parts").paginate(**self._upload(key, token))
        return {one["PartNumber"]: one for page in self._told(pages) for one in page.get("Parts", ())}

    def _upload(self, key: str, token: str) -> Dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + key, "UploadId": token}

    def _part(self, key: str, token: str, number: int) -> Dict[str, Any]:
        return {**self._upload(key, token), "PartNumber": number}

    def _told(self, pages: Iterable[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
        found = iter(pages)
        while True:
            with self._telling:
                page = next(found, None)
            if page is None:
                return
            yield page

    def _check_received(self, reply: Dict[str, Any], data: bytes, key: str) -> None:
        """Where the service takes any checksum, its own MD5 of what it received is held against ours."""
        tag = str(reply.get("ETag", "")).strip('"')
        if self.verifies_parts or not _MD5.fullmatch(tag):
            return
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != tag:
            raise IntegrityError(f"The object {key} did not arrive as it was sent; send it again.")

    def _open(self, endpoint: str, known: Dict[str, str]) -> Any:
        import botocore.session
        from botocore.config import Config

        settings = Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": TRIES, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # A service of one's own has no name for each bucket.
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        with self._telling:
            return botocore.session.get_session().create_client(
                "s3",
                region_name=known.get("region") or "us-east-1",
                endpoint_url=endpoint or None,
                aws_access_key_id=known.get("key"),
                aws_secret_access_key=known.get("secret"),
                aws_session_token=known.get("token"),
                config=settings,
            )


def _status(error: BaseException) -> Optional[int]:
    from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError

    if isinstance(error, ClientError):
        found = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code")
        # No such bucket is nothing that an upload's end or an absent key explains.
        return 403 if code == "NoSuchBucket" else int(found or 500)
    if isinstance(error, (NoCredentialsError, ParamValidationError)):
        return 403
    return None


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()
