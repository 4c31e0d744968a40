"""What workspaces keep for their environments (private wheels, build contexts): files by content, in the home."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Iterator

from runyard.environments.stored_files import check_stored
from runyard.errors import ConflictError, IntegrityError, NotFoundError, StorageFullError
from runyard.files.layout import DISK_FULL
from runyard.protocol.environments import StoredFile

_PIECE_BYTES = 1 << 20


class EnvironmentFiles:
    """The files of one home, as WORKSPACE/SHA256/NAME."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, file: StoredFile, source: Path, exist_ok: bool) -> None:
        """Keep the bytes of ``source``, all of them or none; ConflictError if one of that name is kept already."""
        target = self._path(file)
        if not exist_ok and any(target.parent.parent.glob("*/" + file.name)):
            raise ConflictError(f"The workspace keeps a file {file.name!r} already; exist_ok=True adds this one.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._write(file, source, target)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFullError("The server's disk is full; free some space and try again.") from None
            raise

    def open(self, file: StoredFile) -> BinaryIO:
        """To read it; NotFoundError where there is none."""
        try:
            return open(self._path(file), "rb")
        except FileNotFoundError:
            raise NotFoundError(f"The workspace {file.workspace!r} keeps no such file {file.name!r}.") from None

    def pieces(self, file: StoredFile) -> Iterator[bytes]:
        """Its bytes, piece by piece."""
        with self.open(file) as stream:
            yield from iter(lambda: stream.read(_PIECE_BYTES), b"")

    def _write(self, file: StoredFile, source: Path, target: Path) -> None:
        digest = hashlib.sha256()
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".upload-")
        try:
            with open(handle, "wb") as copy:
                with open(source, "rb") as stream:
                    for block in iter(lambda: stream.read(_PIECE_BYTES), b""):
                        digest.update(block)
                        copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
            if digest.hexdigest() != file.sha256:
                raise IntegrityError(f"The file {file.name!r} changed on its way; send it again.")
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            if not any(target.parent.iterdir()):
                target.parent.rmdir()
            raise

    def _path(self, file: StoredFile) -> Path:
        check_stored(file)
        return self._folder / file.workspace / file.sha256 / file.name
