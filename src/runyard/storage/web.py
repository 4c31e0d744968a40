"""A datastore on a web site: files by their addresses, read only, since nothing there lists or takes any."""

import os
import tempfile
from typing import BinaryIO, Dict, List, NoReturn, Optional, Tuple
from urllib.parse import quote

from runyard.errors import NotFoundError, UserErrorException
from runyard.files.fetch import ask_head, fetch
from runyard.protocol.datastores import Datastore, DatastoreFile
from runyard.protocol.mounts import GLOB
from runyard.protocol.trees import check_path


class WebDatastore:
    """The files below one address."""

    def __init__(self, store: Datastore, allow_private: bool) -> None:
        self._name = store.name
        self._base = "/".join(part for part in (store.endpoint.rstrip("/"), quote(store.root.strip("/"))) if part)
        self._allow_private = allow_private

    def check(self) -> None:
        """Does the site answer, whatever it says of the folder itself?"""
        ask_head(self._base + "/", self._allow_private)

    def list(self, path: str, notices: Optional[Dict[str, None]] = None) -> List[DatastoreFile]:
        """The one file of that path; UserErrorException for a pattern or a folder, which no web site tells about."""
        clean = path.strip("/")
        if clean in ("", ".") or GLOB.search(clean):
            raise UserErrorException(
                f"Datastore {self._name!r} is a web site, which lists no files: name each file's path."
            )
        head = ask_head(self._url(clean), self._allow_private)
        if not head.is_there:
            return []
        if head.size_bytes is None:
            file, found = self.open(clean)
            file.close()
            return [found]
        return [DatastoreFile(clean, head.size_bytes, 0, head.tag)]

    def open(self, path: str) -> Tuple[BinaryIO, DatastoreFile]:
        """The file to read, brought whole first; NotFoundError where there is none."""
        head = ask_head(self._url(path), self._allow_private)
        if not head.is_there:
            raise NotFoundError(f"Datastore {self._name!r} has no file {path!r}.")
        handle, place = tempfile.mkstemp(prefix="runyard-web-")
        os.close(handle)
        try:
            found = fetch(self._url(path), place, self._allow_private)
            assert found is not None
            return open(place, "rb"), DatastoreFile(path, found.size_bytes, 0, head.tag)
        finally:
            os.unlink(place)

    def write(self, path: str, source: BinaryIO, overwrite: bool) -> NoReturn:
        """UserErrorException."""
        raise self._only_read()

    def make_root(self) -> NoReturn:
        """UserErrorException."""
        raise self._only_read()

    def _only_read(self) -> UserErrorException:
        return UserErrorException(f"Datastore {self._name!r} is a web site, which is only read.")

    def _url(self, path: str) -> str:
        return f"{self._base}/{quote(check_path(path))}"
