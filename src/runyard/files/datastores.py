"""Datastores that are folders: every path checked, every write atomic, nothing outside the root. Standard library."""

import errno
import glob
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO, Dict, List, Optional, Tuple

from runyard.errors import ConflictError, NotFoundError, StorageFullError, UserErrorException
from runyard.files.inside import join_inside
from runyard.files.layout import DISK_FULL
from runyard.protocol.datastores import DatastoreFile
from runyard.protocol.mounts import GLOB
from runyard.protocol.trees import check_path

#: Most files in one listing.
LISTING_MAX = 200_000

#: A byte of a file's name that is no text (PEP 383).
_NO_TEXT = re.compile("[\udc80-\udcff]")


class FolderDatastore:
    """The files below one folder."""

    def __init__(self, root: Path, is_own: bool = True) -> None:
        """``is_own``: it is made where it is not there yet. Another's may be a share that is not mounted now."""
        if is_own:
            root.mkdir(parents=True, exist_ok=True)
        elif not root.is_dir():
            raise NotFoundError(f"The datastore's folder {str(root)!r} is not there.")
        # As it is without links, since paths are told below it.
        self._root = Path(os.path.realpath(str(root)))

    def list(self, path: str, notices: Optional[Dict[str, None]] = None) -> List[DatastoreFile]:
        """Files at ``path``: one file, all below a folder, or those that match a glob (``**`` spans folders).

        Nothing there: empty. UserErrorException for a path that cannot be or leaves the folder, and where there are
        more than ``LISTING_MAX``. ``notices`` gets a sentence for each thing that is left out.
        """
        notices = {} if notices is None else notices
        clean = path.replace("\\", "/").strip("/")
        if clean in ("", "."):
            return self._below(self._root, notices)
        check_path(clean)
        # A file or folder of that very name comes first, whatever brackets it has.
        target = join_inside(self._root, clean)
        if GLOB.search(clean) and not target.exists():
            found = glob.glob(os.path.join(glob.escape(str(self._root)), clean), recursive=True)
            inside = sorted(one for one in found if os.path.isfile(one) and self._is_inside(one))
            return self._describe(inside, notices)
        if target.is_dir():
            return self._below(target, notices)
        return self._describe([str(target)], notices) if target.is_file() else []

    def open(self, path: str) -> Tuple[BinaryIO, DatastoreFile]:
        """The file to read; NotFoundError where there is none, UserErrorException for a path as in ``list``."""
        target = join_inside(self._root, check_path(path))
        if not target.is_file():
            raise NotFoundError(f"The datastore has no file {path!r}.")
        file = target.open("rb")
        return file, _described(path, os.fstat(file.fileno()))

    def write(self, path: str, source: BinaryIO, overwrite: bool) -> DatastoreFile:
        """Store what ``source`` holds under ``path``, all of it or nothing.

        ConflictError if it is there already, unless ``overwrite``; UserErrorException for a path that cannot be or
        leaves the folder, for a folder, and below a file; StorageFullError where the disk is full.
        """
        target = join_inside(self._root, check_path(path))
        if target.exists() and not overwrite:
            raise ConflictError(f"The datastore has a file {path!r} already; pass overwrite=True.")
        if target.is_dir():
            raise UserErrorException(f"{path!r} is a folder of the datastore.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._replace(target, source)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFullError("The datastore's disk is full; free some space and try again.") from None
            if error.errno in (errno.EEXIST, errno.ENOTDIR):
                raise UserErrorException(f"A part of {path!r} is a file and not a folder.") from None
            raise
        return self._describe([str(target)], {})[0]

    def _replace(self, target: Path, source: BinaryIO) -> None:
        handle, name = tempfile.mkstemp(dir=str(target.parent), prefix=".upload-")
        try:
            with os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, str(target))
        except BaseException:
            os.unlink(name)
            raise

    def _below(self, folder: Path, notices: Dict[str, None]) -> List[DatastoreFile]:
        found: List[str] = []
        for parent, folders, names in os.walk(str(folder)):
            folders.sort()
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    shown = os.path.relpath(os.path.join(parent, name), str(self._root))
                    notices[f"{shown!r} is a link to a folder, which is not followed."] = None
            found.extend(os.path.join(parent, name) for name in sorted(names) if not name.startswith(".upload-"))
            if len(found) > LISTING_MAX:
                raise UserErrorException(f"More than {LISTING_MAX} files; name a folder or a glob.")
        return self._describe(found, notices)

    def _describe(self, paths: List[str], notices: Dict[str, None]) -> List[DatastoreFile]:
        """Those that can be read: a job may have left links that lead nowhere, or out of here."""
        described = []
        for path in paths:
            found, shown = self._stat(path), os.path.relpath(path, str(self._root))
            if found is None:
                notices[f"{shown!r} is a link that leads nowhere, or out of the datastore."] = None
            elif not stat.S_ISREG(found.st_mode):
                notices[f"{shown!r} is no regular file."] = None
            elif _NO_TEXT.search(shown):
                # No answer can hold it, and the others are wanted.
                notices[f"The name {shown!r} is no valid Unicode text."] = None
            else:
                described.append(_described(shown, found))
        return described

    def _stat(self, path: str) -> Optional[os.stat_result]:
        try:
            found = os.lstat(path)
            if not stat.S_ISLNK(found.st_mode):
                return found
            return os.stat(path) if self._is_inside(path) else None
        except OSError:
            return None

    def _is_inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(str(self._root) + os.sep)


def _described(path: str, found: os.stat_result) -> DatastoreFile:
    tag = f"{found.st_size:x}-{found.st_mtime_ns:x}-{found.st_ino:x}"
    return DatastoreFile(path, found.st_size, found.st_mtime_ns // 1000, tag)
