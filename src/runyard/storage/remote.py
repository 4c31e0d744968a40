"""A datastore in a bucket or container, over fsspec."""

import datetime
import logging
import re
from dataclasses import replace
from typing import Any, BinaryIO, Dict, List, Optional, Tuple
from urllib.parse import quote, unquote

from runyard.errors import ConflictError, NotFoundError, RunyardError, ServiceException, UserErrorException
from runyard.files.datastores import LISTING_MAX
from runyard.protocol.datastores import Datastore, DatastoreFile
from runyard.protocol.mounts import GLOB, fixed_part
from runyard.protocol.trees import check_path
from runyard.storage.services import SERVICES, options

#: What is asked of a service at once, bytes: each request costs it some milliseconds.
PIECE_BYTES = 16 << 20
#: Shortest text that is blotted out of messages.
SECRET_LEAST = 6
#: A folder that no datastore has, to be asked for.
NOTHING = ".runyard-looks"
#: Loggers that tell of every request; a server's log has room for what goes wrong.
CHATTY = ("azure", "aiobotocore", "botocore", "s3fs", "adlfs", "gcsfs", "fsspec")


class RemoteDatastore:
    """The files of one bucket or container, below its root."""

    def __init__(self, store: Datastore, credentials: Dict[str, str]) -> None:
        self._store = store
        self._secrets = _secrets_of(credentials)
        self._root = store.root.strip("/")
        self._system = self._open_quietly(credentials)

    def check(self) -> None:
        """Can it be reached, and does its bucket or container exist? UserErrorException says what is wrong."""
        bucket = self._root.split("/", 1)[0]
        with self._telling():
            try:
                # That a container exists is told to strangers too, and no answer is taken for none; a listing is frank.
                self._system.ls(f"{bucket}/{NOTHING}", detail=False)
            except FileNotFoundError:
                pass
            if not self._system.exists(bucket):
                raise NotFoundError(f"{self._store.kind} has no bucket or container {bucket!r}, or does not show it.")

    def make_root(self) -> None:
        """Make the bucket or container if it is not there."""
        with self._telling():
            bucket = self._root.split("/", 1)[0]
            if not self._system.exists(bucket):
                self._system.mkdir(bucket)

    def list(self, path: str, notices: Optional[Dict[str, None]] = None) -> List[DatastoreFile]:
        """Files at ``path``: one file, all below a folder, or those that match a glob (``**`` spans folders)."""
        notices = {} if notices is None else notices
        clean = path.replace("\\", "/").strip("/")
        if clean in ("", "."):
            return self._below("", notices)
        check_path(clean)
        if not GLOB.search(clean):
            return self._below(clean, notices)
        from fsspec.utils import glob_translate

        exact = self._find_exactly(clean, notices)
        if exact:
            return exact
        pattern = re.compile(glob_translate(clean))
        return [one for one in self._below(fixed_part(clean), notices) if pattern.match(one.path)]

    def open(self, path: str) -> Tuple[BinaryIO, DatastoreFile]:
        """The file to read; NotFoundError where there is none, or a folder."""
        place = self._place(check_path(path))
        with self._telling():
            facts = self._system.info(place)
            if facts.get("type") != "file":
                raise NotFoundError(f"{path!r} is a folder of the datastore, and no file.")
            file: BinaryIO = self._system.open(place, "rb", block_size=PIECE_BYTES, cache_type="readahead")
            return file, self._describe({**facts, "name": place})

    def write(self, path: str, source: BinaryIO, overwrite: bool) -> DatastoreFile:
        """Store what ``source`` holds under ``path``, all of it or nothing; ConflictError if it is there already."""
        place = self._place(check_path(path))
        if "?" in path and SERVICES[self._store.kind].protocol == "abfs":
            raise UserErrorException(
                f"{path!r} cannot be written: Azure's library takes what follows '?' for a version."
            )
        with self._telling():
            if not overwrite and self._system.exists(place):
                raise ConflictError(f"The datastore has a file {path!r} already; pass overwrite=True.")
            # By its name: what sends a file in parts reads it more than once.
            self._system.put_file(source.name, place)
            return self._describe({**self._system.info(place), "name": place})

    def _find_exactly(self, path: str, notices: Dict[str, None]) -> List[DatastoreFile]:
        """The file whose name, with its brackets, is that very path, or all below the folder."""
        place = self._place(path)
        with self._telling():
            try:
                facts = self._system.info(place)
            except (FileNotFoundError, ValueError):
                # adlfs takes a name with brackets for an address, and has none of that name.
                return []
        if facts.get("type") != "file":
            return self._below(path, notices)
        return [self._describe({**facts, "name": place})]

    def _below(self, path: str, notices: Dict[str, None]) -> List[DatastoreFile]:
        place = self._place(path)
        with self._telling():
            found = self._system.find(place, detail=True)
            if isinstance(found, list):
                # What adlfs answers for a file; its facts are a second question.
                found = {name: self._system.info(name) for name in found}
        if len(found) > LISTING_MAX:
            raise UserErrorException(f"More than {LISTING_MAX} files; name a folder or a glob.")
        is_below = place + "/"
        kept = [
            {**facts, "name": name}
            for name, facts in sorted(found.items())
            if facts.get("type") == "file" and (name == place or name.startswith(is_below))
        ]
        return self._readable([self._describe(one) for one in kept], notices)

    def _readable(self, files: List[DatastoreFile], notices: Dict[str, None]) -> List[DatastoreFile]:
        """Without what stands for a folder, and without keys that no file system has a name for."""
        kept = []
        for one, following in zip(files, [*files[1:], None], strict=False):
            is_folder = one.size_bytes == 0 and following is not None and following.path.startswith(one.path + "/")
            if is_folder or one.path.endswith("/"):
                continue
            try:
                kept.append(replace(one, path=check_path(one.path)))
            except UserErrorException as error:
                notices[str(error)] = None
        return kept

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _describe(self, facts: Dict[str, Any]) -> DatastoreFile:
        changed = facts.get("LastModified") or facts.get("last_modified") or facts.get("mtime")
        at = int(changed.timestamp() * 1e6) if isinstance(changed, datetime.datetime) else 0
        tag = str(facts.get("ETag") or facts.get("etag") or "").strip('"')
        return DatastoreFile(facts["name"][len(self._root) + 1 :], int(facts["size"] or 0), at, tag)

    def _open_system(self, credentials: Dict[str, str]) -> Any:
        """The service's client, by its library."""
        import fsspec

        known = options(self._store.kind, self._store.account, self._store.endpoint, credentials)
        with self._telling():
            return fsspec.filesystem(SERVICES[self._store.kind].protocol, **known)

    def _open_quietly(self, credentials: Dict[str, str]) -> Any:
        service = SERVICES[self._store.kind]
        try:
            for name in CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            return self._open_system(credentials)
        except ImportError:
            raise UserErrorException(
                f"Datastores of the kind {self._store.kind} need an extra on the server's machine: "
                f"pip install 'runyard[{service.extra}]'."
            ) from None

    def _telling(self) -> "_Telling":
        return _Telling(self._store.name, self._secrets)


def _secrets_of(credentials: Dict[str, str]) -> List[str]:
    """What no message may hold: each credential as given, and a signature as an address writes it."""
    texts = list(credentials.values())
    for token in filter(None, [credentials.get("sas_token")]):
        texts.append(token.lstrip("?"))
        for written in re.findall(r"(?:^|[?&])sig=([^&]+)", token):
            texts += [written, unquote(written), quote(unquote(written), safe="")]
    # A short one would blot out letters of every sentence, and is no secret.
    return sorted({text for text in texts if len(text) >= SECRET_LEAST}, key=len, reverse=True)


class _Telling:
    """Turns whatever a service's library raises into one sentence, without a credential in it."""

    def __init__(self, name: str, secrets: List[str]) -> None:
        self._name = name
        self._secrets = secrets

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if error is None or isinstance(error, (RunyardError, ImportError, KeyboardInterrupt)):
            return
        if isinstance(error, FileNotFoundError) or kind.__name__ == "ResourceNotFoundError":
            raise NotFoundError(f"Datastore {self._name!r} has no such file.") from None
        text = " ".join(str(error).split()) or kind.__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        refused = isinstance(error, PermissionError) or getattr(error, "status_code", 0) in (401, 403)
        if refused or "uthenticat" in kind.__name__ or "Forbidden" in text:
            raise UserErrorException(f"Datastore {self._name!r} does not let us in: {text[:300]}") from None
        raise ServiceException(f"Datastore {self._name!r} does not answer as it should: {text[:300]}") from None
