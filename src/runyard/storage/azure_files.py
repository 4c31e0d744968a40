"""A datastore on an Azure file share, over Azure's own library: fsspec has nothing for these."""

import io
import os
import re
import uuid
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from runyard.errors import ConflictError, NotFoundError, ServiceException, UserErrorException
from runyard.files.datastores import LISTING_MAX
from runyard.protocol.datastores import DatastoreFile
from runyard.protocol.trees import check_path
from runyard.storage.remote import RemoteDatastore
from runyard.storage.services import CONNECT_S, READ_S, TRIES

#: What is asked for at once, bytes: the most that one range of a share may hold.
RANGE_BYTES = 4 << 20
#: What a file is called until all of it is there; no listing shows it.
ASIDE = ".upload-"
#: What the service takes in no name.
_NOT_IN_NAMES = re.compile(r'["\\:|<>*?]')
#: The service's words for what is not there.
_NO_SHARE, _NO_PLACE = ("ShareNotFound", "ShareBeingDeleted"), ("ResourceNotFound", "ParentNotFound")


class AzureFilesDatastore(RemoteDatastore):
    """The files of one share, below its root's folder. The service does not tell ``a`` from ``A``."""

    def check(self) -> None:
        """Can it be reached, and does its share exist? UserErrorException says what is wrong."""
        with self._telling():
            try:
                next(iter(self._list_folder("")), None)
            except _not_found() as error:
                if _code(error) in _NO_SHARE:
                    raise NotFoundError(f"Account {self._store.account!r} has no share {self._share!r}.") from None

    def make_root(self) -> None:
        """Make the share if it is not there."""
        from azure.core.exceptions import ResourceExistsError

        with self._telling():
            try:
                self._system.create_share()
            except ResourceExistsError as error:
                if _code(error) != "ShareAlreadyExists":
                    raise

    def open(self, path: str) -> Tuple[BinaryIO, DatastoreFile]:
        """The file to read; NotFoundError where there is none."""
        client = self._system.get_file_client(self._place(check_path(path)))
        with self._telling():
            try:
                found = client.get_file_properties()
            except _not_found():
                if self._is_folder(path):
                    raise NotFoundError(f"{path!r} is a folder of the datastore, and no file.") from None
                raise
        size = int(found.size)
        return io.BufferedReader(_Ranges(self, client, size, found.etag), RANGE_BYTES), _file(path, found)

    def write(self, path: str, source: BinaryIO, overwrite: bool) -> DatastoreFile:
        """Store what ``source`` holds under ``path``, all of it or nothing; ConflictError if it is there already."""
        place = self._place(_check_name(path))
        parent = place.rpartition("/")[0]
        size = os.fstat(source.fileno()).st_size
        with self._telling():
            known = self._find_file(place)
            if known is not None and not overwrite:
                raise _taken(path)
            if known is None and self._is_folder(path):
                raise UserErrorException(f"{path!r} is a folder of the datastore.")
            self._make_folder(parent)
            aside = self._system.get_file_client(f"{parent}/{ASIDE}{uuid.uuid4().hex}".lstrip("/"))
            try:
                aside.upload_file(source, length=size)
                self._rename(aside, place, path, overwrite)
            except BaseException:
                _forget(aside)
                raise
            return _file(path, self._system.get_file_client(place).get_file_properties())

    def telling(self) -> Any:
        """Whatever the service's library raises within becomes one sentence."""
        return self._telling()

    def _rename(self, aside: Any, place: str, path: str, overwrite: bool) -> None:
        from azure.core.exceptions import ResourceExistsError

        try:
            # The name ends where the library finds a '?', and no name has one.
            aside.rename_file(place, overwrite=overwrite)
        except ResourceExistsError:
            raise _taken(path) from None

    def _make_folder(self, path: str) -> None:
        """The folder and all above it; one that is there is as good."""
        from azure.core.exceptions import ResourceExistsError

        parts = path.split("/") if path else []
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count])
            try:
                self._system.get_directory_client(folder).create_directory()
            except ResourceExistsError:
                # A file of that name is said so by the next step, or here where there is none.
                if count == len(parts) and not self._has_folder(folder):
                    raise UserErrorException(f"A part of {path!r} is a file and not a folder.") from None
            except _not_found():
                if not self._has_folder("/".join(parts[: count - 1])):
                    raise UserErrorException(f"A part of {path!r} is a file and not a folder.") from None
                raise

    def _is_folder(self, path: str) -> bool:
        return self._has_folder(self._place(path))

    def _has_folder(self, place: str) -> bool:
        if not place:
            return True
        try:
            self._system.get_directory_client(place).get_directory_properties()
        except _not_found():
            return False
        return True

    def _find_exactly(self, path: str, notices: Dict[str, None]) -> List[DatastoreFile]:
        return [] if any(_NOT_IN_NAMES.search(part) for part in path.split("/")) else self._below(path, notices)

    def _find_file(self, place: str) -> Optional[DatastoreFile]:
        if any(_NOT_IN_NAMES.search(part) for part in place.split("/")):
            return None
        with self._telling():
            try:
                found = self._system.get_file_client(place).get_file_properties()
            except _not_found() as error:
                if _code(error) in _NO_SHARE:
                    raise
                return None
        return _file(self._below_root(place), found)

    def _below(self, path: str, notices: Dict[str, None]) -> List[DatastoreFile]:
        if path:
            exact = self._find_file(self._place(path))
            if exact is not None:
                return [exact]
        waiting, found, seen = [path], [], 0
        with self._telling():
            while waiting:
                folder = waiting.pop()
                for one in self._entries(folder):
                    seen += 1
                    if seen > LISTING_MAX:
                        raise UserErrorException(f"More than {LISTING_MAX} files; name a folder or a glob.")
                    name = f"{folder}/{one.name}" if folder else one.name
                    if one.is_directory:
                        waiting.append(name)
                    elif not one.name.startswith(ASIDE):
                        found.append(_file(name, one))
        return self._readable(sorted(found, key=lambda one: one.path), notices)

    def _entries(self, path: str) -> Iterator[Any]:
        """What a folder holds; a folder that is not there, or not any more, holds nothing."""
        try:
            yield from self._list_folder(self._place(path))
        except _not_found() as error:
            if _code(error) not in _NO_PLACE:
                raise

    def _list_folder(self, place: str) -> Any:
        folder = self._system.get_directory_client(place or None)
        return folder.list_directories_and_files(include=["timestamps", "etag"])

    def _below_root(self, place: str) -> str:
        return place[len(self._folder) + 1 :] if self._folder else place

    def _place(self, path: str) -> str:
        """Within the share: the client has that already."""
        return "/".join(part for part in (self._folder, path) if part)

    def _open_system(self, credentials: Dict[str, str]) -> Any:
        self._share, _, self._folder = self._root.partition("/")
        address = self._store.endpoint or f"https://{self._store.account}.file.core.windows.net"
        credential: Any = None
        if "account_key" in credentials:
            credential = {"account_name": self._store.account, "account_key": credentials["account_key"]}
        elif "sas_token" in credentials:
            credential = credentials["sas_token"].lstrip("?")
        from azure.storage.fileshare import LinearRetry, ShareClient

        with self._telling():
            return ShareClient(
                address, self._share, credential=credential, connection_timeout=CONNECT_S, read_timeout=READ_S,
                retry_policy=LinearRetry(backoff=1, retry_total=TRIES - 1, random_jitter_range=0),
                # Where the service leads to was not judged; and a '.' at a name's end would be dropped.
                permit_redirects=False, allow_trailing_dot=True, allow_source_trailing_dot=True,
                max_range_size=RANGE_BYTES, max_single_get_size=RANGE_BYTES, max_chunk_get_size=RANGE_BYTES,
            )  # fmt: skip


class _Ranges(io.RawIOBase):
    """The bytes of one version of a file, asked for range by range."""

    def __init__(self, store: AzureFilesDatastore, client: Any, size: int, tag: str) -> None:
        self._store, self._client, self._size, self._tag = store, client, size, tag
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on reading there."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readall(self) -> bytes:
        """All the rest, by as few questions as there can be; Python's own way asks for 8 KiB at a time."""
        return b"".join(iter(lambda: self.read(RANGE_BYTES) or b"", b""))

    def readinto(self, buffer: Any) -> int:
        """Read up to the buffer's length; ServiceException where the file is another one by now."""
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with self._store.telling():
            answer = self._client.download_file(offset=self._at, length=length)
            data: bytes = answer.readall()
            if answer.properties.etag != self._tag:
                raise ServiceException("The file has changed while it was read; start again.")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _not_found() -> Any:
    from azure.core.exceptions import ResourceNotFoundError

    return ResourceNotFoundError


def _code(error: Any) -> str:
    """The service's own word for what is wrong."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def _forget(client: Any) -> None:
    """What was set aside and is of no use; the service that failed may fail here too."""
    from azure.core.exceptions import AzureError

    try:
        client.delete_file()
    except AzureError:
        pass


def _check_name(path: str) -> str:
    wrong = _NOT_IN_NAMES.search(check_path(path))
    if wrong:
        raise UserErrorException(f"{path!r} cannot be written: a file share takes no {wrong[0]!r} in a name.")
    return path


def _taken(path: str) -> ConflictError:
    return ConflictError(f"The datastore has a file {path!r} already; pass overwrite=True.")


def _file(path: str, found: Any) -> DatastoreFile:
    changed = found.last_modified
    return DatastoreFile(
        path, int(found.size or 0), int(changed.timestamp() * 1e6) if changed else 0, str(found.etag or "").strip('"')
    )
