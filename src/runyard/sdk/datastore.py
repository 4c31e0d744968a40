"""Datastore: files of a workspace, uploaded and downloaded with progress, mounted by runs."""

import os
import re
import sys
from typing import Any, List, Mapping, Optional, Tuple
from urllib.parse import unquote, urlsplit

from runyard.client.downloads import Downloads, Wanted
from runyard.client.transfer import FileBody
from runyard.errors import ConflictError, PermissionDeniedError, UserErrorException
from runyard.protocol import datastores
from runyard.protocol.outputs import OutputMode
from runyard.protocol.trees import check_path
from runyard.protocol.words import counted
from runyard.sdk.data_reference import DataReference
from runyard.sdk.progress import Progress
from runyard.sdk.session import current_server, is_in_run
from runyard.sdk.workspace import Workspace


class AbstractDatastore:
    """A place for files that is registered in a workspace."""

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
        """v1's word for the kind: "AzureBlob" for the default one, as it was there, "AzureFile", ..."""
        if self._record.is_file_share:
            return "AzureFile"
        return _TYPES[self._record.kind]

    @property
    def is_default(self) -> bool:
        """Is it the workspace's default?"""
        return self._record.is_default

    def unregister(self) -> None:
        """Take it off the workspace's list; its files stay where they are."""
        self._workspace._call("unregister_datastore", name=self._name)

    def set_as_default(self) -> None:
        """Use it where none is named."""
        self._record = self._workspace._call("set_default_datastore", name=self._name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self._name!r}, workspace={self._workspace.name!r})"


class AbstractAzureStorageDatastore(AbstractDatastore):
    """A datastore whose files can be uploaded, downloaded and mounted; v1's base of those in containers and shares."""

    @property
    def account_name(self) -> str:
        """Azure's storage account; where there is none, the workspace's name stands for it."""
        return self._record.account or self._workspace.name

    @property
    def container_name(self) -> str:
        """The container, share or bucket; where there is none, the datastore's name stands for it."""
        return self._record.root.split("/", 1)[0] if self._record.is_remote else self._name

    @property
    def endpoint(self) -> str:
        """The service's address, where it is not the cloud's own."""
        return self._record.endpoint

    def upload(
        self, src_dir: str, target_path: Optional[str] = None, overwrite: bool = False, show_progress: bool = True
    ) -> DataReference:
        """Upload a folder's files below ``target_path``. Files that are there already stay, unless ``overwrite``.

        What is no regular file, and a link to a folder, is left out and said on standard error.
        """
        if not os.path.isdir(src_dir):
            raise UserErrorException(f"The folder {src_dir!r} does not exist.")
        return self.upload_files(_files_below(src_dir), src_dir, target_path, overwrite, show_progress)

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
        target = (target_path or "").strip("/")
        names = _names_of(files, relative_root, target)
        total = sum(os.path.getsize(path) for path in files)
        skipped = 0
        with Progress("Uploading", total, len(files), show_progress) as progress:
            for path, name in zip(files, names):
                skipped += not self._send(path, name, overwrite, progress)
                progress.add_file()
        if show_progress:
            there = f" ({skipped} {'was' if skipped == 1 else 'were'} there)" if skipped else ""
            print(f"Uploaded {counted(len(files) - skipped, 'file')}{there}")
        return DataReference(self, path_on_datastore=target)

    def download(
        self, target_path: str, prefix: Optional[str] = None, overwrite: bool = False, show_progress: bool = True
    ) -> int:
        """Download files whose path starts with ``prefix`` below ``target_path``; returns how many came."""
        if os.path.exists(target_path) and not os.path.isdir(target_path):
            raise UserErrorException(f"{target_path!r} is a file; name a folder to download to.")
        start = (prefix or "").strip("/")
        wanted = []
        for one in self._list(""):
            target = os.path.join(target_path, *one.path.split("/"))
            if one.path.startswith(start) and (overwrite or not os.path.exists(target)):
                wanted.append(Wanted(target, None, self._name, one.path, one.size_bytes, one.tag))
        total = sum(one.size_bytes or 0 for one in wanted)
        with Progress("Downloading", total, len(wanted), show_progress) as progress:
            downloads = Downloads(current_server(), self._workspace.name, allow_private=False)
            downloads.carry_out(wanted, progress.add_bytes, lambda _received: progress.add_file())
        return len(wanted)

    def path(self, path: Optional[str] = None, data_reference_name: Optional[str] = None) -> DataReference:
        """A path of the datastore."""
        return DataReference(self, data_reference_name, path)

    def as_mount(self) -> DataReference:
        """The whole datastore, mounted."""
        return DataReference(self)

    def as_download(self, path_on_compute: Optional[str] = None) -> DataReference:
        """The whole datastore, downloaded."""
        return DataReference(self, mode="download", path_on_compute=path_on_compute)

    def as_upload(self, path_on_compute: Optional[str] = None) -> DataReference:
        """The datastore's root, to which a folder that the script writes is uploaded when it has succeeded."""
        return DataReference(self, mode=OutputMode.UPLOAD, path_on_compute=path_on_compute)

    def _list(self, path: str) -> List[datastores.DatastoreFile]:
        return list_files(self._workspace, self._name, path)

    def _send(self, path: str, name: str, overwrite: bool, progress: Progress) -> bool:
        """Send one file; False if it was there and stays."""
        query = {"overwrite": "1" if overwrite else None}
        try:
            self._workspace._call(
                "write_datastore_file", FileBody(path, progress.add_bytes), query, name=self._name, path=name
            )
        except ConflictError:
            return False
        return True


class AzureBlobDatastore(AbstractAzureStorageDatastore):
    """A datastore in a container or bucket, or the default one; v1's name of their class."""


class AzureFileDatastore(AbstractAzureStorageDatastore):
    """A datastore on a file share, or ``workspacefilestore`` and ``workspaceworkingdirectory``."""


class Datastore:
    """``Datastore(ws, name)`` and ``Datastore.get(ws, name)``: the datastore of that name, or the default one."""

    def __new__(cls, workspace: Workspace, name: Optional[str] = None) -> Any:
        return workspace.get_default_datastore() if name is None else _found(workspace, name)

    @staticmethod
    def get(workspace: Workspace, datastore_name: str) -> AbstractAzureStorageDatastore:
        """The datastore of that name; NotFoundError lists those there are."""
        return _found(workspace, datastore_name)

    @staticmethod
    def get_default(workspace: Workspace) -> AbstractAzureStorageDatastore:
        """The workspace's default datastore."""
        found: AbstractAzureStorageDatastore = workspace.get_default_datastore()
        return found

    @staticmethod
    def register(
        workspace: Workspace,
        datastore_name: str,
        url: str,
        endpoint: str = "",
        overwrite: bool = False,
        skip_validation: bool = False,
        account_name: str = "",
        **credentials: str,
    ) -> AbstractAzureStorageDatastore:
        """Register any place: ``s3://bucket/folder``, ``abfs://container/folder``, ``gs://bucket``, a folder, or a web
        site, ``https://host/folder``, whose files are read by their paths.

        ``credentials``: key and secret; account_key or sas_token; token. They are kept encrypted and never shown.
        """
        if re.match(r"https?://", url):
            kind, parts = datastores.DatastoreKind.WEB, urlsplit(url)
            endpoint, root = f"{parts.scheme}://{parts.netloc}", unquote(parts.path).strip("/")
        else:
            kind, root = _kind_and_root(url)
        return _register(
            workspace, datastore_name, kind, root, account_name, endpoint, credentials, overwrite, skip_validation
        )

    @staticmethod
    def register_azure_blob_container(
        workspace: Workspace,
        datastore_name: str,
        container_name: str,
        account_name: str,
        sas_token: Optional[str] = None,
        account_key: Optional[str] = None,
        protocol: Optional[str] = None,
        endpoint: Optional[str] = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        **_: Any,
    ) -> AbstractAzureStorageDatastore:
        """Register a container of Azure Blob Storage. ``endpoint``: a service's whole address, for one that is not
        Azure's own; a domain such as core.windows.net, as in v1. One that is not there is made only if
        ``create_if_not_exists``."""
        secrets = {"sas_token": sas_token, "account_key": account_key}
        address = _azure_address(account_name, endpoint, protocol, "blob")
        kind = datastores.DatastoreKind.AZURE_BLOB
        return _register(
            workspace, datastore_name, kind, container_name, account_name, address, secrets, overwrite,
            skip_validation, create_if_not_exists,
        )  # fmt: skip

    @staticmethod
    def register_azure_data_lake_gen2(
        workspace: Workspace,
        datastore_name: str,
        filesystem: str,
        account_name: str,
        tenant_id: Optional[str] = None,
        client_id: Optional[str] = None,
        client_secret: Optional[str] = None,
        endpoint: Optional[str] = None,
        protocol: Optional[str] = None,
        overwrite: bool = False,
        skip_validation: bool = False,
        **_: Any,
    ) -> AbstractAzureStorageDatastore:
        """Register a file system of Azure Data Lake Storage Gen2, by a service principal."""
        secrets = {"tenant_id": tenant_id, "client_id": client_id, "client_secret": client_secret}
        address = _azure_address(account_name, endpoint, protocol, "blob")
        kind = datastores.DatastoreKind.ADLS_GEN2
        return _register(
            workspace, datastore_name, kind, filesystem, account_name, address, secrets, overwrite, skip_validation
        )

    @staticmethod
    def register_azure_file_share(
        workspace: Workspace,
        datastore_name: str,
        file_share_name: str,
        account_name: str,
        sas_token: Optional[str] = None,
        account_key: Optional[str] = None,
        protocol: Optional[str] = None,
        endpoint: Optional[str] = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        **_: Any,
    ) -> AbstractAzureStorageDatastore:
        """Register a share of Azure Files, or a folder in one (``share/folder``), by account_key or sas_token.

        ``endpoint`` as for a container. A share that is not there is made only if ``create_if_not_exists``.
        """
        secrets = {"sas_token": sas_token, "account_key": account_key}
        address = _azure_address(account_name, endpoint, protocol, "file")
        kind = datastores.DatastoreKind.AZURE_FILE
        return _register(
            workspace, datastore_name, kind, file_share_name, account_name, address, secrets, overwrite,
            skip_validation, create_if_not_exists,
        )  # fmt: skip

    @staticmethod
    def register_azure_data_lake(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(
            "Azure Data Lake Storage Gen1 is no more; register_azure_data_lake_gen2() registers its successor."
        )

    @staticmethod
    def register_azure_sql_database(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(_NO_DATABASE)

    @staticmethod
    def register_azure_postgre_sql(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(_NO_DATABASE)

    @staticmethod
    def register_azure_my_sql(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(_NO_DATABASE)

    @staticmethod
    def register_dbfs(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(_NO_FILE_SYSTEM)

    @staticmethod
    def register_hdfs(*_: Any, **__: Any) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(_NO_FILE_SYSTEM)


_NO_DATABASE = (
    "Databases are no datastores here: read the query with pandas.read_sql and keep its rows by "
    "Dataset.Tabular.register_pandas_dataframe(dataframe, target, name)."
)
_NO_FILE_SYSTEM = (
    "Databricks' and Hadoop's file systems are no datastores here: mount one on the server's machine and register that "
    "folder by Datastore.register(workspace, name, '/mnt/...')."
)

#: v1's words for the kinds, and ours where it had none.
_TYPES = {
    datastores.DatastoreKind.FOLDER: "AzureBlob",
    datastores.DatastoreKind.AZURE_BLOB: "AzureBlob",
    datastores.DatastoreKind.AZURE_FILE: "AzureFile",
    datastores.DatastoreKind.ADLS_GEN2: "AzureDataLakeGen2",
    datastores.DatastoreKind.S3: "AmazonS3",
    datastores.DatastoreKind.GCS: "GoogleCloudStorage",
    datastores.DatastoreKind.WEB: "Web",
}
_SCHEMES = {
    "s3": datastores.DatastoreKind.S3,
    "abfs": datastores.DatastoreKind.AZURE_BLOB,
    "abfss": datastores.DatastoreKind.AZURE_BLOB,
    "az": datastores.DatastoreKind.AZURE_BLOB,
    "gs": datastores.DatastoreKind.GCS,
    "gcs": datastores.DatastoreKind.GCS,
}


def _register(
    workspace: Workspace,
    name: str,
    kind: str,
    root: str,
    account: str,
    endpoint: str,
    credentials: Mapping[str, Optional[str]],
    overwrite: bool,
    skip_validation: bool,
    create: bool = False,
) -> AbstractAzureStorageDatastore:
    given = {key: str(text) for key, text in credentials.items() if text is not None}
    spec = datastores.DatastoreSpec(name, kind, root, account, endpoint, given, overwrite, skip_validation, create)
    return datastore_of(workspace, workspace._call("register_datastore", spec))


def _kind_and_root(url: str) -> Tuple[str, str]:
    scheme, mark, rest = url.partition("://")
    if not mark or scheme == "file":
        return datastores.DatastoreKind.FOLDER, os.path.abspath(os.path.expanduser(rest if mark else url))
    if scheme not in _SCHEMES:
        raise UserErrorException(
            f"{url!r} is no place that this version knows: {', '.join(one + '://' for one in _SCHEMES)}, or a folder."
        )
    return _SCHEMES[scheme], rest.strip("/")


def _azure_address(account: str, endpoint: Optional[str], protocol: Optional[str], service: str) -> str:
    """'' for Azure's own; v1 gave the domain alone, an emulator has an address of its own."""
    if not endpoint or endpoint == "core.windows.net":
        return ""
    return endpoint if "://" in endpoint else f"{protocol or 'https'}://{account}.{service}.{endpoint}"


def datastore_of(workspace: Workspace, record: datastores.Datastore) -> AbstractAzureStorageDatastore:
    """A datastore from its record."""
    kind = AzureFileDatastore if record.is_file_share else AzureBlobDatastore
    return kind(workspace, record.name, _record=record)


def list_files(workspace: Workspace, name: str, path: str) -> List[datastores.DatastoreFile]:
    """The files at a path of that datastore; what is left out is said on standard error."""
    listed: datastores.Listing = workspace._call("list_datastore_files", query={"path": path}, name=name)
    sentence = datastores.left_out_sentence(name, listed.left_out_count, listed.left_out)
    if sentence:
        print("Warning: " + sentence, file=sys.stderr)
    return list(listed.files)


def _found(workspace: Workspace, name: str) -> AbstractAzureStorageDatastore:
    return datastore_of(workspace, workspace._call("get_datastore", name=name))


def _names_of(files: Any, relative_root: Optional[str], target: str) -> List[str]:
    """The path in the datastore of each file; UserErrorException for one that is no file or can have none there."""
    if isinstance(files, (str, bytes)):
        raise UserErrorException(f"upload_files takes a list of files, not {files!r}; upload() takes a folder.")
    missing = [path for path in files if not os.path.isfile(path)]
    if missing:
        raise UserErrorException(f"The file {missing[0]!r} does not exist.")
    root, names = relative_root or _common_folder(files), []
    for path in files:
        name = os.path.relpath(path, root).replace(os.sep, "/")
        if name.startswith("../"):
            raise UserErrorException(f"{path!r} is not below {root!r}.")
        names.append(check_path("/".join(part for part in (target, name) if part)))
    return names


def _files_below(folder: str) -> List[str]:
    """Each regular file, in order."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for path in [os.path.join(parent, name) for name in sorted([*names, *links])]:
            if os.path.isfile(path):
                found.append(path)
            else:
                what = "a link to a folder" if os.path.isdir(path) else "no regular file, or a link that leads nowhere"
                print(f"Warning: {path!r} is left out: it is {what}.", file=sys.stderr)
    return found


def _common_folder(files: List[str]) -> str:
    folders = {os.path.dirname(os.path.abspath(path)) for path in files}
    return os.path.commonpath(sorted(folders)) if folders else os.getcwd()
