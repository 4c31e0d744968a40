"""Datastore: files of a workspace, uploaded and downloaded with progress, mounted by runs."""

import os
from typing import Any, Iterator, List, Optional

from runyard.client.transfer import receive_file
from runyard.errors import ConflictError, PermissionDeniedError, UserErrorException
from runyard.protocol import datastores
from runyard.sdk.data_reference import DataReference
from runyard.sdk.progress import Progress
from runyard.sdk.session import current_server, is_in_run
from runyard.sdk.workspace import Workspace

#: Pieces in which files are sent, bytes.
PIECE_BYTES = 1 << 20


class AzureBlobDatastore:
    """A datastore; v1's name of the default one's class."""

    def __init__(
        self, workspace: Workspace, name: str, _record: Optional[datastores.Datastore] = None, **_: Any
    ) -> None:
        self._workspace = workspace
        self._record = _record or workspace._call("get_datastore", name=name)
        self._name = self._record.name

    @property
    def name(self) -> str:
        """The datastore's name."""
        return self._name

    @property
    def workspace(self) -> Workspace:
        """The workspace that it belongs to."""
        return self._workspace

    @property
    def datastore_type(self) -> str:
        """v1's word for what the default datastore was."""
        return "AzureBlob"

    @property
    def account_name(self) -> str:
        """There is no account; the workspace's name stands for it."""
        return self._workspace.name

    @property
    def container_name(self) -> str:
        """There is no container; the datastore's name stands for it."""
        return self._name

    @property
    def is_default(self) -> bool:
        """Is it the workspace's default?"""
        return self._record.is_default

    def upload(
        self, src_dir: str, target_path: Optional[str] = None, overwrite: bool = False, show_progress: bool = True
    ) -> DataReference:
        """Upload a folder's files below ``target_path``. Files that are there already stay, unless ``overwrite``."""
        if not os.path.isdir(src_dir):
            raise UserErrorException(f"The folder {src_dir!r} does not exist.")
        return self.upload_files(list(_files_below(src_dir)), src_dir, target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: List[str],
        relative_root: Optional[str] = None,
        target_path: Optional[str] = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Upload files; their paths relative to ``relative_root`` (default: their common folder) are kept."""
        if is_in_run():
            raise PermissionDeniedError(
                "A run writes no datastore by its token. Write to ./outputs, which is kept with the run, or give the "
                "run the datastore's folder as an argument, datastore.path('...').as_mount(), and write there."
            )
        missing = [path for path in files if not os.path.isfile(path)]
        if missing:
            raise UserErrorException(f"The file {missing[0]!r} does not exist.")
        root = relative_root or _common_folder(files)
        target = (target_path or "").strip("/")
        total = sum(os.path.getsize(path) for path in files)
        skipped = 0
        with Progress("Uploading", total, len(files), show_progress) as progress:
            for path in files:
                name = os.path.relpath(path, root).replace(os.sep, "/")
                if name.startswith("../"):
                    raise UserErrorException(f"{path!r} is not below {root!r}.")
                skipped += not self._send(path, "/".join(part for part in (target, name) if part), overwrite, progress)
                progress.add_file()
        if show_progress:
            print(f"Uploaded {len(files) - skipped} files" + (f" ({skipped} were there)" if skipped else ""))
        return DataReference(self, path_on_datastore=target)

    def download(
        self, target_path: str, prefix: Optional[str] = None, overwrite: bool = False, show_progress: bool = True
    ) -> int:
        """Download files whose path starts with ``prefix`` below ``target_path``; returns how many came."""
        wanted = (prefix or "").strip("/")
        files = [one for one in self._list("") if one.path.startswith(wanted)]
        count = 0
        with Progress("Downloading", sum(one.size_bytes for one in files), len(files), show_progress) as progress:
            for one in files:
                target = os.path.join(target_path, *one.path.split("/"))
                if overwrite or not os.path.exists(target):
                    receive_file(self._read(one.path), target, progress=progress.add_bytes)
                    count += 1
                progress.add_file()
        return count

    def path(self, path: Optional[str] = None, data_reference_name: Optional[str] = None) -> DataReference:
        """A path of the datastore."""
        return DataReference(self, data_reference_name, path)

    def as_mount(self) -> DataReference:
        """The whole datastore, mounted."""
        return DataReference(self)

    def as_download(self, path_on_compute: Optional[str] = None) -> DataReference:
        """The whole datastore, downloaded."""
        return DataReference(self, mode="download", path_on_compute=path_on_compute)

    def _list(self, path: str) -> List[datastores.DatastoreFile]:
        found: List[datastores.DatastoreFile] = self._workspace._call(
            "list_datastore_files", query={"path": path}, name=self._name
        )
        return found

    def _read(self, path: str) -> Iterator[bytes]:
        return current_server().stream(
            "read_datastore_file", workspace=self._workspace.name, name=self._name, path=path
        )

    def _send(self, path: str, name: str, overwrite: bool, progress: Progress) -> bool:
        """Send one file; False if it was there and stays."""
        query = {"overwrite": "1" if overwrite else None}
        try:
            self._workspace._call("write_datastore_file", _FileBody(path, progress), query, name=self._name, path=name)
        except ConflictError:
            return False
        return True

    def __repr__(self) -> str:
        return f"AzureBlobDatastore(name={self._name!r}, workspace={self._workspace.name!r})"


class Datastore:
    """``Datastore(ws, name)`` and ``Datastore.get(ws, name)``: the datastore of that name, or the default one."""

    def __new__(cls, workspace: Workspace, name: Optional[str] = None) -> Any:
        return workspace.get_default_datastore() if name is None else AzureBlobDatastore(workspace, name)

    @staticmethod
    def get(workspace: Workspace, datastore_name: str) -> AzureBlobDatastore:
        """The datastore of that name; NotFoundError lists those there are."""
        return AzureBlobDatastore(workspace, datastore_name)

    @staticmethod
    def get_default(workspace: Workspace) -> AzureBlobDatastore:
        """The workspace's default datastore."""
        found: AzureBlobDatastore = workspace.get_default_datastore()
        return found


def datastore_of(workspace: Workspace, record: datastores.Datastore) -> AzureBlobDatastore:
    """A datastore from its record."""
    return AzureBlobDatastore(workspace, record.name, _record=record)


class _FileBody:
    """A file as a request's body; read anew where the request must be sent again."""

    def __init__(self, path: str, progress: Progress) -> None:
        self._path = path
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            for piece in iter(lambda: file.read(PIECE_BYTES), b""):
                self._progress.add_bytes(len(piece))
                yield piece


def _files_below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield os.path.join(parent, name)


def _common_folder(files: List[str]) -> str:
    folders = {os.path.dirname(os.path.abspath(path)) for path in files}
    return os.path.commonpath(sorted(folders)) if folders else os.getcwd()
