"""A dataset mounted on this machine (``FileDataset.mount``): links, and what is far away by FUSE or as copies."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, List, Optional, Type

from runyard.client.downloads import Wanted
from runyard.client.home import home_folder
from runyard.errors import UserErrorException
from runyard.files.cache import open_cache
from runyard.files.inside import join_inside
from runyard.protocol.mounted import MountedFile, MountedInput
from runyard.protocol.mounts import DataFile
from runyard.protocol.trees import check_path
from runyard.sdk.dataset_download import bring, make_folder
from runyard.sdk.session import is_in_run


class MountContext:
    """Use it as a context, or call ``start`` and ``stop``; the files are below ``mount_point`` between the two."""

    def __init__(self, files: List[DataFile], workspace: Any, mount_point: Optional[str]) -> None:
        self._files = [_without_links(one) for one in files]
        self._workspace = workspace
        self._given = mount_point
        self._folder: Optional[str] = None
        self._mount: Any = None

    @property
    def mount_point(self) -> str:
        """The folder with the files. UserErrorException before ``start``, if none was given."""
        if self._given is None and self._folder is None:
            raise UserErrorException("The dataset is not mounted yet; call start().")
        return os.path.abspath(self._given or str(self._folder))

    def start(self) -> None:
        """Mount it. UserErrorException where the folder that was given is not empty."""
        if self._folder is not None:
            return
        folder = self._given or tempfile.mkdtemp(prefix="runyard-mount-")
        make_folder(folder)
        if os.listdir(folder):
            raise UserErrorException(f"The mount point {folder!r} is not empty; name another folder.")
        self._folder = folder
        try:
            self._fill(folder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take the mount away; the folder is left empty, or is gone if it was made for it."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        if self._mount is not None:
            self._mount.stop()
            self._mount = None
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        if self._given is None:
            os.rmdir(folder)

    def __enter__(self) -> "MountContext":
        self.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    def _fill(self, folder: str) -> None:
        far = [one for one in self._files if one.source.file is None]
        if far and all(one.source.url is None for one in far) and self._mounts(folder):
            return
        targets = {one.relative: _place(folder, one.relative) for one in self._files}
        for one in self._files:
            if one.source.file is not None:
                os.makedirs(os.path.dirname(targets[one.relative]), exist_ok=True)
                os.symlink(one.origin, targets[one.relative])
        wanted = [Wanted.of(one, targets[one.relative]) for one in far]
        bring(wanted, self._workspace, open_cache(_caches()) if wanted else None)

    def _mounts(self, folder: str) -> bool:
        """Mount by FUSE, where this machine can."""
        if is_in_run():
            return False
        # Not in a job's kit: a job has its data bound.
        from runyard.runner.client_mount import ClientMount

        files = tuple(MountedFile.of(one, one.source.file is not None) for one in self._files)
        self._mount = ClientMount.start(folder, MountedInput(files, self._workspace.name), _caches())
        return self._mount is not None


def _without_links(file: DataFile) -> DataFile:
    """A file of this disk by its own path, since a link of ours must not lead to one that changes."""
    return file if file.source.file is None else replace(file, origin=os.path.realpath(file.origin))


def _caches() -> str:
    return os.path.join(str(home_folder()), "cache")


def _place(folder: str, relative: str) -> str:
    """The file's place below the folder; UserErrorException where it would be elsewhere."""
    return str(join_inside(Path(folder), check_path(relative.replace(os.sep, "/"))))
